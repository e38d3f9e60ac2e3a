DROP FUNCTION mailcrane.retry_message(uuid);

DELETE FROM mailcrane.migration WHERE version = 35;
