package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tail is how much of a log an error shows.
const tail = 25

// stage is one thing to wait for, and the logs that tell why it didn't come.
type stage struct {
	what    string
	timeout time.Duration
	// logs are machine/program.
	logs []string
}

// await asks until the check passes. When time is up, the error holds the last failure and the end of each log.
func (c *Cluster) await(s stage, check func() error) error {
	started := time.Now()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Since(started) > s.timeout {
			return c.explain(s, err)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

func (c *Cluster) explain(s stage, err error) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: not after %s: %v", s.what, s.timeout, err)
	for _, log := range s.logs {
		machine, program, _ := strings.Cut(log, "/")
		file := filepath.Join(c.Dir, machine, "var/log", program+".log")
		content, err := os.ReadFile(file)
		if err != nil {
			fmt.Fprintf(&text, "\n--- %s: %v", file, err)
			continue
		}
		lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
		lines = lines[max(0, len(lines)-tail):]
		fmt.Fprintf(&text, "\n--- the end of %s:\n%s", file, strings.Join(lines, "\n"))
	}
	return fmt.Errorf("%s", text.String())
}
