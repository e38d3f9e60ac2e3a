DELETE FROM mailcrane.migration WHERE version = 19;
DROP VIEW mailcrane.history;
