// Package cluster owns a Kubernetes cluster of our own on this machine: a control machine and nodes, each a sandbox, and
// what makes them a cluster. Or, told a kubeconfig, it stands for a cluster that somebody else brought up.
//
// A cluster is its folder: everything it has lies below it, and its state file names what must be ended. Two clusters in
// two folders never meet.
package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"outrigger.dev/e2e/node/sandbox"
)

// Cluster is what the state file holds.
type Cluster struct {
	Dir string `json:"dir"`
	// Kubeconfig is an administrator's.
	Kubeconfig string `json:"kubeconfig"`
	// Foreign clusters were brought up by somebody else: nothing is started, imported or ended.
	Foreign bool   `json:"foreign"`
	Nodes   []Node `json:"nodes"`
	// Machines are the control machine and the nodes, by name.
	Machines map[string]*sandbox.Sandbox `json:"machines"`
	// Kubernetes and Helm are the programs' files in the cache.
	Kubernetes string `json:"kubernetes"`
	Helm       string `json:"helm"`
	// Ready is set once everything works.
	Ready bool `json:"ready"`
}

const stateFile = "cluster.json"

// Load reads the state of the cluster in a folder. Without one the error is fs.ErrNotExist.
func Load(dir string) (*Cluster, error) {
	content, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return nil, err
	}
	c := new(Cluster)
	if err := json.Unmarshal(content, c); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, stateFile), err)
	}
	return c, nil
}

// save writes the state file whole or not at all.
func (c *Cluster) save() error {
	content, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	partial := filepath.Join(c.Dir, "."+stateFile)
	if err := os.WriteFile(partial, content, 0o644); err != nil {
		return err
	}
	return os.Rename(partial, filepath.Join(c.Dir, stateFile))
}

// Alive says whether the cluster is up and every machine still runs.
func (c *Cluster) Alive() bool {
	for _, machine := range c.Machines {
		if !machine.Alive() {
			return false
		}
	}
	return c.Ready
}

// cgroups is where the cluster's are; the folder's name in it keeps clusters apart.
func (c *Cluster) cgroups() string {
	sum := sha256.Sum256([]byte(c.Dir))
	return "outrigger-e2e-" + hex.EncodeToString(sum[:4])
}

func (c *Cluster) cgroup(machine string) string { return c.cgroups() + "/" + machine }

// Node gives the node of that name.
func (c *Cluster) Node(name string) (Node, error) {
	at := slices.IndexFunc(c.Nodes, func(n Node) bool { return n.name() == name })
	if at < 0 {
		return Node{}, fmt.Errorf("no node is called %q", name)
	}
	return c.Nodes[at], nil
}

// Enter is a command of the host that reaches the cluster: in the control machine's network, with the kubeconfig set.
func (c *Cluster) Enter(args ...string) *exec.Cmd {
	command := exec.Command(args[0], args[1:]...)
	if !c.Foreign {
		command = c.Machines[controlName].InNet(args...)
	}
	command.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "PATH="+c.bin()+":"+os.Getenv("PATH"))
	return command
}

// kubectl runs one command and gives what it printed.
func (c *Cluster) kubectl(stdin string, args ...string) (string, error) {
	words := append([]string{c.Kubernetes, "kubectl", "--request-timeout=20s"}, args...)
	if c.Foreign {
		words = append([]string{"kubectl"}, args...)
	}
	command := c.Enter(words...)
	command.Stdin = strings.NewReader(stdin)
	var failure strings.Builder
	command.Stderr = &failure
	output, err := command.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(failure.String()))
	}
	return string(output), err
}

// Apply applies the manifests of a folder, and waits until definitions among them are served.
func (c *Cluster) Apply(folder string) error {
	if _, err := c.kubectl("", "apply", "--server-side", "-f", folder); err != nil {
		return err
	}
	_, err := c.kubectl("", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
	return err
}

// Down ends every machine and removes what they leave: cgroups, then the folder. It is safe to call at any time, whatever
// came up or didn't.
func Down(dir string) error {
	c, err := Load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var failed error
	for _, machine := range c.Machines {
		failed = errors.Join(failed, machine.Kill())
	}
	if failed != nil {
		return failed
	}
	if !c.Foreign {
		failed = sandbox.RemoveCgroup(c.cgroups())
	}
	return errors.Join(failed, os.RemoveAll(dir))
}
