//go:build unix

package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// playOnSmallDisk plays a case on a stage of its own, whose PostgreSQL has a
// small file system to itself.
func (s *stage) playOnSmallDisk(ctx context.Context, c scenario, letters int) (result Round, err error) {
	dir := filepath.Join(s.dir, fmt.Sprintf("small-%d", time.Now().UnixNano()))
	disk := filepath.Join(dir, diskName)
	if err := os.MkdirAll(disk, 0o755); err != nil { //nolint:gosec // PostgreSQL runs as another user
		return result, err
	}
	if out, err := exec.CommandContext(ctx, "mount", "-t", "tmpfs", "-o", "size=256m,mode=755", "none", disk).CombinedOutput(); err != nil { //nolint:gosec // a folder of ours
		reason, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return Round{Case: c.number, Title: c.title, Skipped: "no small disk can be mounted: " + reason}, os.RemoveAll(dir)
	}
	defer func() {
		out, umountErr := exec.CommandContext(context.WithoutCancel(ctx), "umount", "-l", disk).CombinedOutput() //nolint:gosec // the same
		if umountErr != nil {
			err = errors.Join(err, fmt.Errorf("umount %s: %s", disk, out))
		}
	}()
	for _, d := range s.lanes { // two machines in one would measure each other
		if err := d.stop(ctx); err != nil {
			return result, err
		}
	}
	small, err := open(ctx, s.Config, dir)
	if err != nil {
		return result, err
	}
	c.smallDisk = false
	result, err = small.play(ctx, c, letters)
	err = errors.Join(err, small.close(context.WithoutCancel(ctx)))
	for _, d := range s.lanes {
		d.start()
	}
	return result, errors.Join(err, s.allReady(ctx))
}

// diskName is where a small disk is mounted, if there is one.
const diskName = "disk"

// fillDisk leaves PostgreSQL no room, and then gives it back.
func fillDisk(ctx context.Context, r *round) error {
	ballast := filepath.Join(r.dir, diskName, "ballast")
	fill := func() error {
		file, err := os.Create(ballast) //nolint:gosec // a file of ours
		if err != nil {
			return err
		}
		block := make([]byte, 1<<16)
		for err == nil {
			_, err = file.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return errors.Join(err, file.Close())
		}
		return file.Close()
	}
	if err := r.wait(ctx, time.Second); err != nil {
		return err
	}
	if err := fill(); err != nil {
		return err
	}
	n := 0
	err := until(ctx, r.patience(), "the API says 503", func(ctx context.Context) (bool, error) {
		n++
		return r.postBig(ctx, n) == http.StatusServiceUnavailable, nil
	})
	if err != nil {
		r.breaks("disk full: %v", err)
	}
	if err := r.wait(ctx, r.outage(30*time.Second)); err != nil {
		return err
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if r.pool.Ping(ctx) != nil { // it gave up, as it does when it cannot write its log
		return r.restartServer(ctx, 0)
	}
	return nil
}

// postBig writes a letter with as much data as one may have, and gives what the
// API answers.
func (r *round) postBig(ctx context.Context, number int) int {
	w := r.writers
	l := w.add(fmt.Sprintf("%sbig%06d@torture.example", w.prefix, number), doubtful)
	noise := make([]byte, 10_000)
	for i := range noise {
		noise[i] = byte('a' + r.random.IntN(26)) //nolint:gosec // a letter
	}
	body, err := json.Marshal(map[string]any{"email": l.recipient, "data": map[string]string{"noise": string(noise)}})
	if err != nil {
		return 0
	}
	response, err := w.send(ctx, l.recipient, bytes.NewReader(body))
	if err != nil {
		return 0
	}
	if _, err = io.Copy(io.Discard, response.Body); err == nil && response.Body.Close() == nil && response.StatusCode/100 == 2 {
		w.settle(l, committed)
	}
	return response.StatusCode
}
