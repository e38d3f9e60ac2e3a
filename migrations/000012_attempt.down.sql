DELETE FROM mailcrane.migration WHERE version = 12;
DROP TABLE mailcrane.attempt;
