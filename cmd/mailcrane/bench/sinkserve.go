package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ServeSink is the process of a sink. It first says where it listens, and then
// answers the lines "count" and "arrivals" with a line of JSON each, until there
// are no more lines or ctx ends.
func ServeSink(ctx context.Context, config SinkConfig, in io.Reader, out io.Writer) error {
	s, err := newSink(config)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- s.serve() }()
	ended := make(chan error, 1)
	go func() { ended <- s.answer(in, out) }()
	select {
	case <-ctx.Done():
	case err = <-ended:
	case err = <-failed:
	}
	return errors.Join(err, s.close())
}

// sinkGreeting is the first line.
type sinkGreeting struct {
	Address string `json:"address"`
}

func (s *Sink) answer(in io.Reader, out io.Writer) error {
	encoder := json.NewEncoder(out)
	if err := encoder.Encode(sinkGreeting{s.listener.Addr().String()}); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var answer any
		switch lines.Text() {
		case "count":
			answer = s.soFar()
		case "arrivals":
			answer = s.arrivals()
		default:
			return fmt.Errorf("sink: no answer to %q", lines.Text())
		}
		if err := encoder.Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}
