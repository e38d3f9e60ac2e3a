DELETE FROM mailcrane.migration WHERE version = 21;
DROP FUNCTION mailcrane.mark_sent(uuid);
DROP FUNCTION mailcrane.release_message(uuid);
DROP FUNCTION mailcrane.require_held(uuid);
DROP FUNCTION mailcrane.release(text, text);
DROP FUNCTION mailcrane.requeue(uuid[]);
DROP FUNCTION mailcrane.hold(text, text, text);
DROP FUNCTION mailcrane.held_because(text, text);
DROP TABLE mailcrane.hold;
