DELETE FROM mailcrane.migration WHERE version = 20;
ALTER TABLE mailcrane.attempt DROP COLUMN allowed_unknown;
ALTER TABLE mailcrane.message DROP COLUMN held_by, DROP COLUMN forgiven;
DROP FUNCTION mailcrane.policy_for(text, text);
DROP TABLE mailcrane.policy;
