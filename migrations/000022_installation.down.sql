DELETE FROM mailcrane.migration WHERE version = 22;
DROP FUNCTION mailcrane.adopt(text);
DROP FUNCTION mailcrane.guard(text, boolean);
DROP FUNCTION mailcrane.whereabouts();
ALTER TABLE mailcrane.instance DROP COLUMN beats;
DROP TABLE mailcrane.installation;
