package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// step is what open decides to do next with a message.
type step struct {
	status Status        // finish with this status, if not empty
	reason string        // and this reason
	heldBy string        // and this cause, if it is held
	wait   time.Duration // come back after this, if above zero
	drop   bool          // nothing to do: the message is finished already
}

// goesOn says whether the message may be sent: there is nothing else to do.
func (s step) goesOn() bool { return s == step{} }

// loaded is a message with all that decides whether it may be sent.
type loaded struct {
	ID                                           string
	Tenant, Channel, Recipient, Template, Locale string
	Status                                       Status
	HeaderMessageID                              string
	Due                                          time.Time
	Expired, TooOld                              bool
	GiveUpAfter                                  string // as PostgreSQL writes it
	SuppressedFor                                string // reason
	HasErased                                    bool   // its tenant has suppressions of erased addresses
	HoldReason                                   string // why nothing is sent for its tenant or template
	DisabledBecause                              string // why its webhook is told nothing
	AllowedUnknown                               int    // attempts that may be unknown before it is held
	Attempts                                     int    // highest number so far
	Unknown                                      int    // attempts that were ever unknown
	LastReply                                    string
	OpenAttempt                                  int  // number of the open attempt, 0 for none
	OpenIsLive                                   bool // and whether its daemon is alive

	Data       []byte // of the application, as JSON
	Generation int    // of the link

	// The invitation, if the message is about one.
	InvitationID, InvitationStatus string
	GroupID, GroupName, Email      string
	InviterID, InviterName, Link   string
	ExpiresAt                      *time.Time
}

// open is the first of the three short transactions of a delivery: it loads the
// message and settles everything that needs no network.
func (t *try) open(ctx context.Context) (step, error) {
	l, err := t.load(ctx)
	if errors.Is(err, pgx.ErrNoRows) {
		return step{drop: true}, nil // erased: the job has outlived its message
	}
	if err != nil {
		return step{}, err
	}
	if l.OpenAttempt > 0 && !l.OpenIsLive && t.relay.instance.steady() {
		closed, err := t.closeDead(ctx, l.OpenAttempt)
		if err != nil {
			return step{}, err
		}
		if closed {
			l.OpenAttempt = 0
			l.Unknown++
		}
	}
	next := l.decide(t.rescues)
	if next.status != "" {
		return t.finish(ctx, next)
	}
	if next.goesOn() {
		t.unknown, t.allowed = l.Unknown, l.AllowedUnknown
		err = t.prepare(l)
	}
	return next, err
}

// decide applies the rules, in this order, to a message whose dead attempts are
// closed.
func (l loaded) decide(rescues int) step {
	switch {
	case l.Status != StatusQueued: // R1: finished, or in a human's hands
		return step{drop: true}
	case l.OpenAttempt > 0: // R2: somebody alive is at it
		return step{wait: time.Second}
	case l.SuppressedFor != "":
		return step{status: StatusSuppressed, reason: l.SuppressedFor}
	case l.InvitationStatus != "" && l.InvitationStatus != "pending" && l.InvitationStatus != "expired":
		return step{status: StatusCancelled, reason: "the invitation was " + l.InvitationStatus + " before the message was sent"}
	case l.DisabledBecause != "": // however long: it counts from when it is enabled
		return step{status: StatusHeld, heldBy: "webhook", reason: "the webhook is disabled: " + l.DisabledBecause}
	case l.Expired || l.InvitationStatus == "expired":
		return step{status: StatusFailed, reason: withLastReply("expired before it could be sent", l.LastReply)}
	case l.TooOld && l.Attempts == 0: // which says nothing about the message
		return step{status: StatusHeld, heldBy: "relay", reason: "no relay was there for it within " + l.GiveUpAfter}
	case l.Unknown > l.AllowedUnknown: // R2: repeated as often as allowed
		return step{status: StatusHeld, heldBy: "unknown", reason: fmt.Sprintf("the outcome of %d attempts is unknown", l.Unknown)}
	case l.TooOld:
		return step{status: StatusFailed, reason: withLastReply("given up after "+l.GiveUpAfter, l.LastReply)}
	case rescues >= maxRescues:
		return step{status: StatusHeld, heldBy: "poison", reason: fmt.Sprintf("%d times the daemon died that had it in hand", rescues)}
	case l.HoldReason != "":
		return step{status: StatusHeld, heldBy: "hold", reason: "on hold: " + l.HoldReason}
	default:
		return step{}
	}
}

func withLastReply(reason, reply string) string {
	if reply == "" {
		return reason
	}
	return reason + "; last reply: " + reply
}

// load reads the message, together with those of the same moment.
func (t *try) load(ctx context.Context) (loaded, error) {
	var id pgtype.UUID
	if err := id.Scan(t.messageID); err != nil {
		return loaded{}, fmt.Errorf("the job names no message: %w", err)
	}
	t.messageID = id.String() // as the database writes it
	l, err := t.relay.groups.open.do(ctx, t.messageID)
	if errors.Is(err, errAlone) {
		l, err = byItself(t.relay, t.messageID, t.relay.loadAll)
	}
	return l, err
}

const loadMessages = `
	WITH m AS MATERIALIZED (
		SELECT * FROM mailcrane.message WHERE id = ANY ($1::uuid[])
	), rules AS MATERIALIZED ( -- once for all messages of a kind
		SELECT k.tenant, k.template, p.on_unknown, p.max_unknown, p.give_up_after, h.reason AS hold_reason
		FROM (SELECT DISTINCT m.tenant, m.template FROM m) AS k
		CROSS JOIN LATERAL mailcrane.policy_for(k.tenant, k.template) AS p
		LEFT JOIN LATERAL mailcrane.hold_for(k.tenant, k.template) AS h ON true
	), past AS MATERIALIZED (
		SELECT a.message_id,
		       max(a.number) AS attempts,
		       count(*) FILTER (WHERE a.was_unknown) AS unknown,
		       min(a.header_message_id) AS header_message_id,
		       max(a.number) FILTER (WHERE a.outcome IS NULL) AS open_attempt,
		       bool_or(a.outcome IS NULL AND mailcrane.instance_is_live(n)) AS open_is_live,
		       (array_agg(a.reply ORDER BY a.number DESC))[1] AS last_reply
		FROM mailcrane.attempt AS a
		LEFT JOIN mailcrane.instance AS n ON n.id = a.instance_id AND a.outcome IS NULL
		WHERE a.message_id = ANY ($1::uuid[])
		GROUP BY a.message_id
	)
	SELECT m.id::text AS id, m.tenant, m.channel, m.recipient, m.template, m.locale,
	       m.status,
	       coalesce(past.header_message_id, '') AS header_message_id,
	       greatest(m.created_at, m.send_after) AS due,
	       coalesce(m.expires_at <= clock_timestamp(), false) AS expired,
	       greatest(m.created_at, m.send_after, m.retried_at) < clock_timestamp() - r.give_up_after AS too_old,
	       r.give_up_after::text AS give_up_after,
	       coalesce(r.hold_reason, '') AS hold_reason,
	       coalesce(w.disabled_because, '') AS disabled_because,
	       m.forgiven + CASE r.on_unknown WHEN 'hold' THEN 0 ELSE r.max_unknown END AS allowed_unknown,
	       coalesce(s.reason, '') AS suppressed_for,
	       EXISTS (SELECT FROM mailcrane.suppression AS e WHERE e.tenant = m.tenant AND e.address LIKE 'erased-%@erased.invalid') AS has_erased,
	       coalesce(past.attempts, 0) AS attempts,
	       coalesce(past.unknown, 0) AS unknown,
	       coalesce(past.last_reply, '') AS last_reply,
	       coalesce(past.open_attempt, 0) AS open_attempt,
	       coalesce(past.open_is_live, false) AS open_is_live,
	       coalesce(i.data, m.data) AS data,
	       coalesce(i.id::text, '') AS invitation_id,
	       coalesce(i.status, '') AS invitation_status,
	       coalesce(i.group_id, '') AS group_id,
	       coalesce(i.group_name, '') AS group_name,
	       coalesce(i.email, '') AS email,
	       coalesce(i.inviter_id, '') AS inviter_id,
	       coalesce(i.inviter_name, '') AS inviter_name,
	       coalesce(i.link, '') AS link,
	       m.generation,
	       i.expires_at
	FROM m
	JOIN rules AS r ON r.tenant = m.tenant AND r.template = m.template
	LEFT JOIN mailcrane.invitation AS i ON i.id = m.invitation_id
	LEFT JOIN mailcrane.webhook AS w ON m.channel = 'webhook' AND w.id = mailcrane.webhook_of(m.recipient)
	LEFT JOIN mailcrane.suppression AS s ON s.tenant = m.tenant AND s.address = lower(m.recipient)
	LEFT JOIN past ON past.message_id = m.id`

// loadAll answers with the messages, or [pgx.ErrNoRows] for one that is no more.
func (r *Relay) loadAll(ids []string, alone bool) []answer[loaded] {
	ctx, cancel := context.WithTimeout(r.abandoned, longest)
	defer cancel()
	batch := newTransaction(alone)
	var list []loaded
	batch.Queue(loadMessages, uuids(ids, func(id string) string { return id })).Query(func(rows pgx.Rows) (err error) {
		list, err = pgx.CollectRows(rows, pgx.RowToStructByName[loaded])
		return err
	})
	err := r.Pool.SendBatch(ctx, batch).Close()
	if err == nil {
		err = r.findErased(ctx, list)
	}
	if err != nil {
		return everyone[loaded](len(ids), alonePossible(err, len(ids)))
	}
	answers := everyone[loaded](len(ids), pgx.ErrNoRows)
	for _, l := range list {
		for i, id := range ids {
			if id == l.ID { // or twice, if two jobs bring it
				answers[i] = answer[loaded]{out: l}
			}
		}
	}
	return answers
}

// closeDead records that nobody knows what became of the open attempt of a
// daemon that is no more (R2). Its row may have been closed meanwhile.
func (t *try) closeDead(ctx context.Context, number int) (closed bool, err error) {
	tag, err := t.relay.Pool.Exec(ctx, `
		UPDATE mailcrane.attempt AS a
		SET outcome = 'unknown', was_unknown = true, finished_at = clock_timestamp(),
		    reply = 'the daemon died before the answer came'
		WHERE a.message_id = $2
		  AND a.number = $3
		  AND a.outcome IS NULL
		  AND `+clocksAgree+`
		  AND NOT EXISTS (
			SELECT FROM mailcrane.instance AS n WHERE n.id = a.instance_id AND mailcrane.instance_is_live(n))`,
		time.Now(), t.messageID, number)
	if err != nil {
		return false, fmt.Errorf("close attempt %d of a dead daemon: %w", number, err)
	}
	return tag.RowsAffected() > 0, nil
}

// finish ends a message that is not to be sent, together with its job. A hold
// may be released at the same moment, or a webhook enabled: the lock makes that wait,
// and find the message held. If it was first, the message starts over.
func (t *try) finish(ctx context.Context, s step) (step, error) {
	batch := newTransaction(true)
	batch.Queue(`
		SELECT
		FROM mailcrane.hold AS h
		JOIN mailcrane.message AS m ON h.tenant IN (m.tenant, '*') AND h.template IN (m.template, '*')
		WHERE m.id = $1
		ORDER BY h.tenant, h.template
		FOR KEY SHARE OF h`, t.messageID)
	if s.heldBy == "webhook" {
		batch.Queue(`
			SELECT
			FROM mailcrane.webhook AS w
			JOIN mailcrane.message AS m ON w.id = mailcrane.webhook_of(m.recipient)
			WHERE m.id = $1
			FOR SHARE OF w`, t.messageID)
	}
	finished := false
	batch.Queue(`
		UPDATE mailcrane.message AS m
		SET status = $2, reason = $3, held_by = $4, finished_at = CASE WHEN $2 <> 'held' THEN clock_timestamp() END
		WHERE m.id = $1
		  AND m.status = 'queued'
		  AND ($4::text IS DISTINCT FROM 'hold' OR mailcrane.held_because(m.tenant, m.template) IS NOT NULL)
		  AND ($4::text IS DISTINCT FROM 'webhook' OR EXISTS (
			SELECT FROM mailcrane.webhook AS w WHERE w.id = mailcrane.webhook_of(m.recipient) AND w.disabled_at IS NOT NULL))`,
		t.messageID, string(s.status), s.reason, optional(s.heldBy)).
		Exec(func(tag pgconn.CommandTag) error {
			finished = tag.RowsAffected() == 1
			return nil
		})
	batch.Queue(completeJobs, []int64{t.job}, []int{t.jobAttempt}, t.relay.instance.id, []string{t.messageID}, []bool{false})
	if err := t.relay.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return step{}, fmt.Errorf("finish as %s: %w", s.status, err)
	}
	if !finished {
		return step{wait: time.Second}, nil
	}
	t.relay.settled.add(t.job)
	t.relay.Logger.Info("message finished without an attempt",
		"message_id", t.messageID, "status", string(s.status), "reason", s.reason)
	return s, nil
}

// prepare makes the message that the sender gets.
func (t *try) prepare(l loaded) (err error) {
	link := l.Link
	if l.InvitationID != "" && link == "" {
		link, t.tokenHash = AcceptLink(t.relay.AcceptURL, t.relay.Secret, l.InvitationID, l.Generation)
		t.noLink = link == ""
	}
	if t.message, err = l.message(link); err == nil {
		t.message.HeaderMessageID = cmp.Or(l.HeaderMessageID, t.messageID+"@"+t.relay.MessageIDDomain)
		t.message.Priority = t.priority
	}
	return err
}

// message is what a sender gets but for the Message-ID.
func (l loaded) message(link string) (*Message, error) {
	fields := map[string]any{}
	if l.InvitationID != "" {
		fields = map[string]any{
			"group_id": l.GroupID, "group_name": l.GroupName, "email": l.Email,
			"inviter_id": l.InviterID, "inviter_name": l.InviterName,
			"link": link, "expires_at": l.ExpiresAt.UTC().Format(time.RFC3339),
		}
	}
	data := map[string]any{}
	if string(l.Data) != "{}" {
		if err := json.Unmarshal(l.Data, &data); err != nil {
			return nil, fmt.Errorf("read template data: %w", err)
		}
	}
	fields["data"] = data
	return &Message{
		ID:        l.ID,
		Tenant:    l.Tenant,
		Channel:   l.Channel,
		Template:  l.Template,
		Locale:    l.Locale,
		Recipient: l.Recipient,
		Date:      l.Due,
		Data:      fields,
		Attempt:   l.Attempts + 1,
	}, nil
}
