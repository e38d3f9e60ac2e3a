// Package torture proves the promise on the machine it runs on: it writes
// invitations, rolls a part of them back, breaks what can break, and counts.
//
// A [stage] is the world: a PostgreSQL of its own, two daemons in processes of
// their own, a third that only serves HTTP, and for each of them a proxy before
// the database and two relays. The relays are [mailbox] servers that write every
// mail to disk before they say 250, into one [sink].
//
// A [scenario] is one way to fail. In a [round], writers write letters while it
// goes on; then everything has to settle, and a [Ledger] compares three accounts:
// what the writers were told, what the database says, and what the sink has got.
package torture
