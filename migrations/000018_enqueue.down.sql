DELETE FROM mailcrane.migration WHERE version = 18;
DROP FUNCTION mailcrane.enqueue(text, text, jsonb, text, text, timestamptz, interval, integer, text, text);
DROP FUNCTION mailcrane.message_problems(text, text, jsonb, text, text, text, text, text, text, text);
