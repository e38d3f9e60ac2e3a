// Package bench measures how fast this machine sends: end to end, with a real
// PostgreSQL that flushes to disk, daemons and a relay in processes of their own.
//
// A [stage] is the world of one run: the database, the relay and the daemons. The
// relay is a [Sink], which takes mails as cheaply as it can, because it works on
// the same processors as what is measured, and counts them. Producers write
// messages as applications do, in a process of their own where it matters.
//
// What was measured are the figures of a run; a run in which a mail was lost or
// came twice, or in which the audit has something to say, has failed.
package bench
