-- Whenever a table is vacuumed or analyzed, all sessions plan anew what they do with
-- it, the ones that invite and the ones that send alike, and whoever invites meanwhile
-- waits for that. By default that is every few seconds while these tables are small: 50
-- rows and a tenth of the table suffice. Nothing that Mailcrane does is planned by
-- statistics, and they are for people, who need them of large tables.

ALTER TABLE mailcrane.invitation SET (autovacuum_analyze_threshold = 10000, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = 10000);
ALTER TABLE mailcrane.message SET (autovacuum_analyze_threshold = 10000, autovacuum_vacuum_insert_threshold = 10000);
ALTER TABLE mailcrane.attempt SET (autovacuum_analyze_threshold = 10000, autovacuum_vacuum_insert_threshold = 10000);
ALTER TABLE mailcrane.river_job SET (autovacuum_analyze_threshold = 10000, autovacuum_vacuum_insert_threshold = 10000);
ALTER TABLE mailcrane.event SET (autovacuum_analyze_threshold = 10000, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = 10000);
ALTER TABLE mailcrane.recipient_use SET (autovacuum_analyze_threshold = 10000, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = 10000);
ALTER TABLE mailcrane.request SET (autovacuum_analyze_threshold = 10000, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = 10000);
ALTER TABLE mailcrane.quota_use SET (autovacuum_analyze_threshold = 10000, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = 10000);

-- Which heartbeats change.
ALTER TABLE mailcrane.instance SET (autovacuum_analyze_threshold = 10000);

INSERT INTO mailcrane.migration (version) VALUES (52);
