DELETE FROM mailcrane.migration WHERE version = 14;
DROP TABLE mailcrane.suppression;
