DELETE FROM mailcrane.migration WHERE version = 15;
DROP FUNCTION mailcrane.queue_jobs(uuid[]);
