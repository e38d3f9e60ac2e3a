// Package outboxtest helps to test code that writes to the outbox, on a real
// PostgreSQL.
//
//	func TestInviteView(t *testing.T) {
//		pool := outboxtest.Database(t) // migrated, and this test's own
//		…
//		outboxtest.RequireQueued(t, pool, "ada@example.com", "invitation")
//	}
//
// The databases are on a server that this package starts, one a test program,
// from the PostgreSQL programs on the machine. The server ends with the test
// program, and its data, which are in memory if there is plenty of that, go too.
// Set TMPDIR to have them elsewhere.
//
// Set TEST_DATABASE_URL to use a server that runs already: its user must be
// allowed to create databases. What is left there by a test program that was
// killed is dropped a day later; the migrated template stays.
package outboxtest
