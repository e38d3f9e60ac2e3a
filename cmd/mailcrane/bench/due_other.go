//go:build !linux

package bench

import "time"

func waitUntil(due time.Time) { wait(time.Until(due)) }
