DELETE FROM mailcrane.migration WHERE version = 9;
DROP FUNCTION mailcrane.uuid_v7();
