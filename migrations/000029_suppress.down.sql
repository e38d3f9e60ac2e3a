DROP FUNCTION mailcrane.unsuppress(text, text);
DROP FUNCTION mailcrane.suppress(text, text, text, text);
DROP FUNCTION mailcrane.suppress_many(jsonb, text);

DELETE FROM mailcrane.migration WHERE version = 29;
