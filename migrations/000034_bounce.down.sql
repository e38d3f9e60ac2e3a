DROP FUNCTION mailcrane.report_bounces(jsonb, text);
DROP FUNCTION mailcrane.bounced_message(jsonb);
DROP TABLE mailcrane.bounce;

COMMENT ON COLUMN mailcrane.event.type IS 'invitation.created, .accepted, .declined, .revoked, .expired, .reminded; message.sent, .failed, .held, .suppressed, .cancelled, .queued (again), .deferred, .unknown.';

DELETE FROM mailcrane.migration WHERE version = 34;
