DELETE FROM mailcrane.migration WHERE version = 13;
DROP FUNCTION mailcrane.instance_is_live(mailcrane.instance);
DROP TABLE mailcrane.instance;
