//go:build unix

package bench

import (
	"os"
	"path/filepath"
	"testing"
)

func TestGroups_areTheMeanOverAllDaemonsThatTell(t *testing.T) {
	t.Parallel()
	s := &stage{}
	for _, text := range []string{
		`{"level":"INFO","msg":"stopping"}` + "\n" +
			`{"level":"INFO","msg":"groups written","open_items":100,"open_groups":10,"handover_items":90,"handover_groups":30,"close_items":0,"close_groups":0}` + "\n",
		`{"level":"INFO","msg":"groups written","open_items":50,"open_groups":40,"handover_items":10,"handover_groups":20,"close_items":0,"close_groups":0}` + "\n",
		"not even JSON: groups written\n",
	} {
		log, err := os.Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		s.daemons = append(s.daemons, &daemon{log: log})
	}
	figures := s.groups()
	opened, _ := figures.get("group_open")
	handed, _ := figures.get("group_handover")
	if len(figures) != 2 || opened.Value != 3 || handed.Value != 2 {
		t.Errorf("%+v", figures)
	}
}
