// Package localpg runs a private PostgreSQL from programs that are installed on
// the machine: for trying things out, and for tests.
//
//	server, err := localpg.Start(ctx, localpg.Config{Ephemeral: true})
//	…
//	defer server.Stop(ctx)
//	pool, err := pgxpool.New(ctx, server.URL())
//
// The server is a child of the calling program and never outlives it, not even a
// kill -9 (on Linux). It listens on loopback only, with a password. A data
// directory belongs to one program at a time, is never deleted unless it is
// ephemeral, and is refused if another major version of PostgreSQL wrote it or
// if it is not a directory of this package at all.
//
// PostgreSQL refuses to run as root. A program that runs as root gets a server
// that runs as the user postgres, or else nobody.
package localpg
