DROP FUNCTION mailcrane.erase(text);

DELETE FROM mailcrane.migration WHERE version = 30;
