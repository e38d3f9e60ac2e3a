DELETE FROM mailcrane.migration WHERE version = 11;
DROP TABLE mailcrane.message;
