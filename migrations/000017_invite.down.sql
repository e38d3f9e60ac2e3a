DELETE FROM mailcrane.migration WHERE version = 17;
DROP FUNCTION mailcrane.invite(text, text, text, text, text, text, text, jsonb, timestamptz, interval, integer, text, text);
DROP FUNCTION mailcrane.invite_many(jsonb, text);
DROP FUNCTION mailcrane.check_invitations(jsonb, text);
DROP FUNCTION mailcrane.invitation_problems(jsonb);
DROP FUNCTION mailcrane.invitation_items(jsonb);
