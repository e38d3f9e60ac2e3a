DROP FUNCTION mailcrane.forget_requests(integer);
DROP FUNCTION mailcrane.answer_request(text, jsonb, text);
DROP FUNCTION mailcrane.claim_request(text, bytea, text);
DROP TABLE mailcrane.request;

DELETE FROM mailcrane.migration WHERE version = 32;
