ALTER TABLE mailcrane.invitation RESET (autovacuum_analyze_threshold, autovacuum_vacuum_threshold, autovacuum_vacuum_insert_threshold);
ALTER TABLE mailcrane.message RESET (autovacuum_analyze_threshold, autovacuum_vacuum_insert_threshold);
ALTER TABLE mailcrane.attempt RESET (autovacuum_analyze_threshold, autovacuum_vacuum_insert_threshold);
ALTER TABLE mailcrane.river_job RESET (autovacuum_analyze_threshold, autovacuum_vacuum_insert_threshold);
ALTER TABLE mailcrane.event RESET (autovacuum_analyze_threshold, autovacuum_vacuum_threshold, autovacuum_vacuum_insert_threshold);
ALTER TABLE mailcrane.recipient_use RESET (autovacuum_analyze_threshold, autovacuum_vacuum_threshold, autovacuum_vacuum_insert_threshold);
ALTER TABLE mailcrane.request RESET (autovacuum_analyze_threshold, autovacuum_vacuum_threshold, autovacuum_vacuum_insert_threshold);
ALTER TABLE mailcrane.quota_use RESET (autovacuum_analyze_threshold, autovacuum_vacuum_threshold, autovacuum_vacuum_insert_threshold);
ALTER TABLE mailcrane.instance RESET (autovacuum_analyze_threshold);

DELETE FROM mailcrane.migration WHERE version = 52;
