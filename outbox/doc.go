// Package outbox writes messages into PostgreSQL in the application's own
// transaction, and moves what was committed to the outside world.
//
// An application that invites somebody has two things to do: store the
// invitation, and mail it. Done one after the other, a crash in between loses
// the mail, or mails an invitation that was rolled back. Here both are rows of
// one transaction:
//
//	receipt, err := outbox.Invite(ctx, tx, outbox.Invitation{
//		GroupID:   "42",
//		GroupName: "Analytical Engine Club",
//		Email:     "ada@example.com",
//	})
//
// tx is a [pgx.Tx], or a *sql.Tx wrapped by [SQL]. When it commits, the daemon's
// [Relay] picks the message up, usually within milliseconds; when it does not,
// nothing was ever there.
//
// # What it guarantees
//
// Nothing is offered to the next hop for a row that was not committed. Every
// committed message is at any moment waiting, in progress, or finished with a
// recorded reason. And a message is offered again only after an attempt whose
// outcome is on record as unknown (the line went dead after the data had been
// handed over, and nobody can say whether they were taken; RFC 1047), a bounded
// number of times, always under the same Message-ID. "Sent" means that the next
// hop accepted responsibility, no more.
//
// # The calls
//
//   - [Invite], [InviteMany] and [Enqueue] write. Each is one call of the SQL
//     function of the same name in the schema mailcrane, which holds all rules,
//     so that every language gets the same.
//   - [GetInvitation], [GetMessage], [ListInvitations] and [ListMessages] read.
//   - [NewRelay] makes the part that sends, for those who run it in their own
//     program rather than as the mailcrane daemon.
//
// # The words
//
// A message is one notification to one recipient over one channel; a [Draft] is
// the same before it is written. A [Sender] hands messages to the next hop of
// its channel. Each try is an [Attempt] with an [Outcome]. A job is a row of
// River's queue: it carries the message's id and nothing else, and decides when
// a message is looked at, never what is true about it.
//
// # How a message is sent
//
// A worker goes through three short transactions, and none is open while
// anything talks to the network:
//
//   - open loads the message and settles what needs no network.
//   - handover, called by the sender at the last moment at which nothing has
//     been handed over, writes the attempt, open, and waits for the disk.
//   - close records the outcome, the message's status and the job's in one
//     commit, and repeats it until it succeeds.
//
// Messages that come to the same point at the same moment share a transaction: a
// group gathers while the one before it is at work. A message whose rows somebody
// else has locked, or that the database refuses, leaves its group.
//
// The rules, numbered in the code as here:
//
//   - R1: a message that was accepted, or is finished otherwise, is not sent.
//   - R2: an open attempt of a live daemon is left alone; that of a dead one
//     becomes unknown, and the message is repeated as often as its policy allows,
//     then held.
//   - R3: the handover checks all of it again, under a lock on the message,
//     together with the lease of this daemon and its claim on the job. A unique
//     index allows one open attempt a message, whatever else goes wrong.
//   - R4: the final dot follows only while the lease is fresh by the monotonic
//     and the wall clock.
//   - R5: close cannot be cancelled. When the job has passed to somebody else it
//     records the fact and touches nothing more.
//   - R6: what the next hop says after it has accepted changes nothing.
//
// A daemon proves that it lives by a heartbeat on the database's clock. When one
// dies, any other, or its own successor, gives its jobs back to the queue as
// soon as the lease is over.
package outbox
