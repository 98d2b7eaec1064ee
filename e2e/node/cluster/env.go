package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func (c *Cluster) bin() string { return filepath.Join(c.Dir, "bin") }

// Env gives the lines of the file "env", for a shell to read: where the cluster is, and kubectl, helm and enter in the path.
func (c *Cluster) Env() string {
	lines := []string{
		"export OUTRIGGER_E2E_CLUSTER=" + quote(c.Dir),
		"export KUBECONFIG=" + quote(c.Kubeconfig),
		"export PATH=" + quote(c.bin()) + `:"$PATH"`,
	}
	if control := c.Machines[controlName]; control != nil {
		lines = append(lines,
			"export CLUSTER_NETNS="+control.Net(),
			fmt.Sprintf("export CLUSTER_PID=%d", control.Pid))
	}
	for _, node := range c.Nodes {
		if machine := c.Machines[node.name()]; machine != nil {
			lines = append(lines, fmt.Sprintf("export CLUSTER_NODE_%d_PID=%d", node.Number, machine.Pid))
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// writeEnv writes the env file and the programs it puts into the path. Each enters the cluster's network by itself:
// `enter COMMAND…` does so for any other program.
func (c *Cluster) writeEnv() error {
	enter := ""
	if control := c.Machines[controlName]; control != nil {
		enter = "nsenter --net=" + control.Net() + " "
	}
	wrappers := map[string]string{"enter": enter + `"$@"`}
	if c.Kubernetes != "" {
		wrappers["kubectl"] = enter + quote(c.Kubernetes) + ` kubectl "$@"`
	}
	if c.Helm != "" {
		wrappers["helm"] = enter + quote(c.Helm) + ` "$@"`
	}
	if err := os.MkdirAll(c.bin(), 0o755); err != nil {
		return err
	}
	for name, command := range wrappers {
		script := "#!/bin/sh\nexport KUBECONFIG=\"${KUBECONFIG:-" + c.Kubeconfig + "}\"\nexec " + command + "\n"
		if err := os.WriteFile(filepath.Join(c.bin(), name), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(c.Dir, "env"), []byte(c.Env()), 0o644)
}

func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
