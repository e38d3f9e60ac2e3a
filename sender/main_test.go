package sender_test

import (
	"testing"

	"go.uber.org/goleak"
)

// Nothing of this package may linger: no connection, no timer, no goroutine.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
