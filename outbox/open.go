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
	Tenant, Channel, Recipient, Template, Locale string
	Status                                       Status
	HeaderMessageID                              string
	Due                                          time.Time
	Expired, TooOld                              bool
	GiveUpAfter                                  string // as PostgreSQL writes it
	Data                                         []byte // of the message
	Invitation                                   []byte // the invitation as a JSON object, null without one
	SuppressedFor                                string // reason
	HoldReason                                   string // why nothing is sent for its tenant or template
	AllowedUnknown                               int    // attempts that may be unknown before it is held
	Attempts                                     int    // highest number so far
	Unknown                                      int    // attempts that were ever unknown
	LastReply                                    string
	OpenAttempt                                  int  // number of the open attempt, 0 for none
	OpenIsLive                                   bool // and whether its daemon is alive
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
	invitation := invitationFields{}
	if err := json.Unmarshal(l.Invitation, &invitation); err != nil {
		return step{}, fmt.Errorf("read invitation: %w", err)
	}
	next := l.decide(invitation.Status, t.rescues)
	if next.status != "" {
		return t.finish(ctx, next)
	}
	if next.goesOn() {
		t.unknown, t.allowed = l.Unknown, l.AllowedUnknown
		err = t.prepare(l, invitation)
	}
	return next, err
}

// decide applies the rules, in this order, to a message whose dead attempts are
// closed.
func (l loaded) decide(invitationStatus string, rescues int) step {
	switch {
	case l.Status != StatusQueued: // R1: finished, or in a human's hands
		return step{drop: true}
	case l.OpenAttempt > 0: // R2: somebody alive is at it
		return step{wait: time.Second}
	case l.SuppressedFor != "":
		return step{status: StatusSuppressed, reason: l.SuppressedFor}
	case invitationStatus != "" && invitationStatus != "pending" && invitationStatus != "expired":
		return step{status: StatusCancelled, reason: "the invitation was " + invitationStatus + " before the message was sent"}
	case l.Expired || invitationStatus == "expired":
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

func (t *try) load(ctx context.Context) (loaded, error) {
	rows, err := t.relay.Pool.Query(ctx, `
		SELECT m.tenant, m.channel, m.recipient, m.template, m.locale,
		       m.status,
		       coalesce(m.header_message_id, '') AS header_message_id,
		       greatest(m.created_at, m.send_after) AS due,
		       coalesce(m.expires_at <= clock_timestamp(), false) AS expired,
		       greatest(m.created_at, m.send_after) < clock_timestamp() - p.give_up_after AS too_old,
		       p.give_up_after::text AS give_up_after,
		       coalesce(mailcrane.held_because(m.tenant, m.template), '') AS hold_reason,
		       m.forgiven + CASE p.on_unknown WHEN 'hold' THEN 0 ELSE p.max_unknown END AS allowed_unknown,
		       m.data,
		       coalesce(to_jsonb(i), 'null') AS invitation,
		       coalesce(s.reason, '') AS suppressed_for,
		       coalesce(past.attempts, 0) AS attempts,
		       past.unknown,
		       coalesce(past.last_reply, '') AS last_reply,
		       coalesce(o.number, 0) AS open_attempt,
		       coalesce(mailcrane.instance_is_live(n), false) AS open_is_live
		FROM mailcrane.message AS m
		CROSS JOIN LATERAL mailcrane.policy_for(m.tenant, m.template) AS p
		LEFT JOIN mailcrane.invitation AS i ON i.id = m.invitation_id
		LEFT JOIN mailcrane.suppression AS s ON s.tenant = m.tenant AND s.address = lower(m.recipient)
		LEFT JOIN mailcrane.attempt AS o ON o.message_id = m.id AND o.outcome IS NULL
		LEFT JOIN mailcrane.instance AS n ON n.id = o.instance_id
		CROSS JOIN LATERAL (
			SELECT max(a.number) AS attempts,
			       count(*) FILTER (WHERE a.was_unknown) AS unknown,
			       (array_agg(a.reply ORDER BY a.number DESC))[1] AS last_reply
			FROM mailcrane.attempt AS a
			WHERE a.message_id = m.id
		) AS past
		WHERE m.id = $1`,
		t.messageID)
	if err != nil {
		return loaded{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[loaded])
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
// may be released at the same moment: its lock makes the release wait, and find
// the message held. If the release was first, the message starts over.
func (t *try) finish(ctx context.Context, s step) (step, error) {
	batch := &pgx.Batch{}
	batch.Queue(durable)
	batch.Queue(`
		SELECT
		FROM mailcrane.hold AS h
		JOIN mailcrane.message AS m ON h.tenant IN (m.tenant, '*') AND h.template IN (m.template, '*')
		WHERE m.id = $1
		ORDER BY h.tenant, h.template
		FOR KEY SHARE OF h`, t.messageID)
	finished := false
	batch.Queue(`
		UPDATE mailcrane.message AS m
		SET status = $2, reason = $3, held_by = $4, finished_at = CASE WHEN $2 <> 'held' THEN clock_timestamp() END
		WHERE m.id = $1
		  AND m.status = 'queued'
		  AND ($4::text IS DISTINCT FROM 'hold' OR mailcrane.held_because(m.tenant, m.template) IS NOT NULL)`,
		t.messageID, string(s.status), s.reason, optional(s.heldBy)).
		Exec(func(tag pgconn.CommandTag) error {
			finished = tag.RowsAffected() == 1
			return nil
		})
	batch.Queue(completeJob, t.job, t.jobAttempt, t.relay.instance.id, t.messageID)
	if err := t.relay.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return step{}, fmt.Errorf("finish as %s: %w", s.status, err)
	}
	if !finished {
		return step{wait: time.Second}, nil
	}
	t.relay.Logger.Info("message finished without an attempt",
		"message_id", t.messageID, "status", string(s.status), "reason", s.reason)
	return s, nil
}

// invitationFields are the columns of an invitation that its template shows.
type invitationFields struct {
	ID          string          `json:"id"`
	GroupID     string          `json:"group_id"`
	GroupName   string          `json:"group_name"`
	Email       string          `json:"email"`
	InviterID   string          `json:"inviter_id"`
	InviterName string          `json:"inviter_name"`
	Link        string          `json:"link"`
	Data        json.RawMessage `json:"data"`
	Generation  int             `json:"generation"`
	Status      string          `json:"status"`
	ExpiresAt   time.Time       `json:"expires_at"`
}

// prepare makes the message that the sender gets.
func (t *try) prepare(l loaded, i invitationFields) error {
	own := l.Data
	fields := map[string]any{}
	if i.ID != "" {
		own = i.Data
		if i.Link == "" {
			i.Link, t.tokenHash = t.relay.acceptLink(i.ID, i.Generation)
			t.noLink = i.Link == ""
		}
		fields = map[string]any{
			"group_id": i.GroupID, "group_name": i.GroupName, "email": i.Email,
			"inviter_id": i.InviterID, "inviter_name": i.InviterName,
			"link": i.Link, "expires_at": i.ExpiresAt.UTC().Format(time.RFC3339),
		}
	}
	var data map[string]any
	if err := json.Unmarshal(own, &data); err != nil {
		return fmt.Errorf("read template data: %w", err)
	}
	fields["data"] = data
	t.message = &Message{
		ID:              t.messageID,
		Tenant:          l.Tenant,
		Channel:         l.Channel,
		Template:        l.Template,
		Locale:          l.Locale,
		Recipient:       l.Recipient,
		HeaderMessageID: cmp.Or(l.HeaderMessageID, t.messageID+"@"+t.relay.MessageIDDomain),
		Date:            l.Due,
		Data:            fields,
		Attempt:         l.Attempts + 1,
	}
	return nil
}
