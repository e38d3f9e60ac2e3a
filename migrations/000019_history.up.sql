-- For people with psql: everything one invitation or message went through, in
-- order, from the rows that are there anyway.

CREATE VIEW mailcrane.history AS
    SELECT i.id AS invitation_id, NULL::uuid AS message_id, i.created_at AS at, 'invited' AS event,
           format('%s to %s', i.email, coalesce(i.group_name, i.group_id)) AS detail
    FROM mailcrane.invitation AS i
    UNION ALL
    SELECT i.id, NULL, i.finished_at, i.status, NULL
    FROM mailcrane.invitation AS i
    WHERE i.finished_at IS NOT NULL
    UNION ALL
    SELECT m.invitation_id, m.id, m.created_at, 'message queued',
           concat_ws(', ', format('%s to %s', m.template, m.recipient), 'not before ' || m.send_after::text)
    FROM mailcrane.message AS m
    UNION ALL
    SELECT m.invitation_id, m.id, coalesce(a.finished_at, a.began_at),
           format('attempt %s %s', a.number, coalesce(a.outcome, 'open')),
           concat_ws(' ', a.relay || ':', a.code::text, a.enhanced_code, a.reply)
    FROM mailcrane.attempt AS a
    JOIN mailcrane.message AS m ON m.id = a.message_id
    UNION ALL
    SELECT m.invitation_id, m.id, m.finished_at, 'message ' || m.status, m.reason
    FROM mailcrane.message AS m
    WHERE m.finished_at IS NOT NULL;

COMMENT ON VIEW mailcrane.history IS 'What an invitation or a message went through: SELECT at, event, detail FROM mailcrane.history WHERE invitation_id = ''…'' ORDER BY at.';

INSERT INTO mailcrane.migration (version) VALUES (19);
