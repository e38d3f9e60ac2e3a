DELETE FROM mailcrane.migration WHERE version = 23;
DROP FUNCTION mailcrane.repair();
DROP FUNCTION mailcrane.audit(interval);
DROP VIEW mailcrane.live_job;
DROP INDEX mailcrane.attempt_was_unknown;
DROP INDEX mailcrane.attempt_began_at;
DROP INDEX mailcrane.message_finished_at;
