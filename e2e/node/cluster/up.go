package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"outrigger.dev/e2e/node/image"
	"outrigger.dev/e2e/node/sandbox"
)

// Options say what to bring up.
type Options struct {
	Dir string
	// Zones gives the nodes: one for each.
	Zones []string
	// Kubernetes and Helm are the built programs.
	Kubernetes, Helm string
	// Images are imported into every node before anything runs.
	Images []*image.Image
	Say    func(format string, args ...any)
}

// Up brings up a cluster in a folder that holds none.
func Up(o Options) (*Cluster, error) {
	c := &Cluster{
		Dir:        o.Dir,
		Kubeconfig: filepath.Join(o.Dir, "kubeconfig"),
		Kubernetes: o.Kubernetes,
		Helm:       o.Helm,
		Machines:   map[string]*sandbox.Sandbox{},
	}
	for at, zone := range o.Zones {
		c.Nodes = append(c.Nodes, Node{Number: at + 1, Zone: zone})
	}
	if err := c.prepare(); err != nil {
		return c, err
	}
	o.Say("starting the control plane and %d nodes", len(c.Nodes))
	if err := c.startControl(); err != nil {
		return c, err
	}
	for _, node := range c.Nodes {
		if err := c.StartNode(node); err != nil {
			return c, err
		}
	}
	if err := c.settle(o); err != nil {
		return c, err
	}
	c.Ready = true
	return c, errors.Join(c.writeEnv(), c.save())
}

// Adopt stands for a cluster that somebody else brought up.
func Adopt(dir, kubeconfig, helm string) (*Cluster, error) {
	path, err := filepath.Abs(kubeconfig)
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("kubectl"); err != nil {
		return nil, errors.New("kubectl is missing, and a cluster of somebody else needs it")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if present, err := os.ReadDir(dir); err != nil || len(present) > 0 {
		return nil, errors.Join(err, fmt.Errorf("%s is not empty: `down` removes what a cluster left", dir))
	}
	c := &Cluster{Dir: dir, Kubeconfig: path, Foreign: true, Helm: helm, Ready: true}
	if _, err := c.kubectl("", "get", "--raw", "/readyz"); err != nil {
		return nil, err
	}
	return c, errors.Join(c.writeEnv(), c.save())
}

// prepare writes every certificate and setting.
func (c *Cluster) prepare() error {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	// Down removes the folder with all that's in it, so it must hold nothing of anybody else.
	if present, err := os.ReadDir(c.Dir); err != nil || len(present) > 0 {
		return errors.Join(err, fmt.Errorf("%s is not empty, and holds no cluster", c.Dir))
	}
	if err := c.save(); err != nil {
		return err
	}
	authority, err := newPKI()
	if err != nil {
		return err
	}
	admin, err := authority.kubeconfig("admin", "system:masters")
	if err != nil {
		return err
	}
	if err := (files{"kubeconfig": admin}).write(c.Dir); err != nil {
		return err
	}
	control, err := controlFiles(authority)
	if err != nil {
		return err
	}
	if err := control.write(filepath.Join(c.Dir, controlName, "var/lib/kubernetes")); err != nil {
		return err
	}
	for _, node := range c.Nodes {
		content, err := nodeFiles(authority, node, c.cgroup(node.name()))
		if err != nil {
			return err
		}
		if err := content.write(filepath.Join(c.Dir, node.name(), "var")); err != nil {
			return err
		}
	}
	return nil
}

// settle takes started machines to a cluster that works: images in, nodes ready, names resolved.
func (c *Cluster) settle(o Options) error {
	for _, node := range c.Nodes {
		machine := c.Machines[node.name()]
		wait := stage{"containerd on " + node.name(), 60 * time.Second, []string{node.name() + "/containerd"}}
		if err := c.await(wait, func() error {
			return machine.Inside("ctr", "-a", containerdSocket, "version").Run()
		}); err != nil {
			return err
		}
	}
	o.Say("importing %d images into every node", len(o.Images))
	if err := c.Import(o.Images); err != nil {
		return err
	}
	o.Say("waiting for the API server")
	wait := stage{"API server", 120 * time.Second, []string{controlName + "/kube-apiserver", controlName + "/etcd"}}
	if err := c.await(wait, func() error {
		_, err := c.kubectl("", "get", "--raw", "/readyz")
		return err
	}); err != nil {
		return err
	}
	if err := c.deployDNS(); err != nil {
		return err
	}
	for _, node := range c.Nodes {
		o.Say("waiting for %s", node.name())
		if err := c.AwaitNode(node); err != nil {
			return err
		}
	}
	o.Say("waiting for cluster DNS")
	wait = stage{"cluster DNS", 120 * time.Second, []string{"node-1/kubelet", controlName + "/kube-controller-manager"}}
	return c.await(wait, func() error {
		_, err := c.kubectl("", "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=10s")
		return err
	})
}

func (c *Cluster) deployDNS() error {
	manifest, err := render("coredns.yaml", map[string]string{"Image": image.CoreDNS, "DNS4": dns4, "DNS6": dns6})
	if err != nil {
		return err
	}
	// Right after the API server's start its own objects (priority classes, say) may still be missing.
	wait := stage{"applying CoreDNS", 60 * time.Second, []string{controlName + "/kube-apiserver"}}
	return c.await(wait, func() error {
		_, err := c.kubectl(string(manifest), "apply", "--server-side", "-f", "-")
		return err
	})
}

// AwaitNode waits until a node is ready, and tells the API server its pod ranges, which nothing here needs but clients read.
func (c *Cluster) AwaitNode(node Node) error {
	logs := []string{node.name() + "/kubelet", node.name() + "/containerd"}
	registered := stage{node.name() + " registered", 90 * time.Second, logs}
	patch := fmt.Sprintf(`{"spec":{"podCIDR":%q,"podCIDRs":[%q,%q]}}`, node.pods4(), node.pods4(), node.pods6())
	if err := c.await(registered, func() error {
		_, err := c.kubectl("", "patch", "node", node.name(), "--type=merge", "-p", patch)
		return err
	}); err != nil {
		return err
	}
	ready := stage{node.name() + " ready", 120 * time.Second, logs}
	return c.await(ready, func() error {
		const path = `jsonpath={.status.conditions[?(@.type=="Ready")]['status','message']}`
		// A node that came back may still be called ready from before: the kubelet itself must answer.
		if _, err := c.kubectl("", "get", "--raw", "/api/v1/nodes/"+node.name()+"/proxy/healthz"); err != nil {
			return err
		}
		status, err := c.kubectl("", "get", "node", node.name(), "-o", path)
		if err == nil && !strings.HasPrefix(status, "True") {
			err = errors.New(status)
		}
		return err
	})
}
