package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTimeoutShowsTheEndOfTheRightLog(t *testing.T) {
	c := &Cluster{Dir: t.TempDir()}
	logs := filepath.Join(c.Dir, "node-1/var/log")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("old\n", 2*tail) + "the reason\n"
	if err := os.WriteFile(filepath.Join(logs, "kubelet.log"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	wait := stage{"node-1 ready", 0, []string{"node-1/kubelet", "node-1/containerd"}}
	err := c.await(wait, func() error { return errors.New("not yet") })
	for _, part := range []string{"node-1 ready", "not yet", "the reason", "kubelet.log", "containerd.log"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v lacks %q", err, part)
		}
	}
	if lines := strings.Count(err.Error(), "old\n"); lines >= tail {
		t.Errorf("%d lines of the log", lines)
	}
}

func TestAFolderOfSomebodyElseIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	if err := os.WriteFile(mine, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(Options{Dir: dir, Say: t.Logf}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Error(err)
	}
	if err := Down(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}
