DELETE FROM mailcrane.migration WHERE version = 10;
DROP TABLE mailcrane.invitation;
