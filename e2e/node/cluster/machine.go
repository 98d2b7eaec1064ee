package cluster

import (
	"errors"
	"path/filepath"

	"outrigger.dev/e2e/node/image"
	"outrigger.dev/e2e/node/sandbox"
)

const containerdSocket = "/run/containerd/containerd.sock"

// nodeProcesses are what makes a machine a node.
func nodeProcesses(node Node) []sandbox.Process {
	return []sandbox.Process{
		{Name: "containerd", Args: []string{"/usr/bin/containerd", "--config=/var/lib/kubernetes/containerd.toml"}},
		{Name: "kubelet", After: containerdSocket, Args: []string{
			kubernetes, "kubelet",
			"--config=" + keys + "/kubelet.yaml",
			"--kubeconfig=" + keys + "/kubelet.kubeconfig",
			"--hostname-override=" + node.name(),
			"--node-ip=" + node.addr4() + "," + node.addr6(),
			"--node-labels=topology.kubernetes.io/region=" + region + ",topology.kubernetes.io/zone=" + node.Zone,
		}},
		kubeProxy(),
	}
}

// nodeFiles are a node's certificates and settings, from its /var on.
func nodeFiles(p *pki, node Node, cgroup string) (files, error) {
	result := files{
		"lib/kubernetes/ca.crt": p.pem,
		// Nothing outside the cluster is to be resolved, and the host's resolver is none of the pods' business.
		"lib/kubelet/resolv.conf": []byte("# empty on purpose\n"),
	}
	serving, err := p.issue("system:node:"+node.name(), "system:nodes", node.name(), node.addr4(), node.addr6())
	if err != nil {
		return nil, err
	}
	result.pair("lib/kubernetes/kubelet", serving)
	if result["lib/kubernetes/kubelet.kubeconfig"], err = p.kubeconfig("system:node:"+node.name(), "system:nodes"); err != nil {
		return nil, err
	}
	if result["lib/kubernetes/kube-proxy.kubeconfig"], err = p.kubeconfig("system:kube-proxy", ""); err != nil {
		return nil, err
	}
	if result["lib/kubernetes/kube-proxy.yaml"], err = proxyConfig(node.name()); err != nil {
		return nil, err
	}
	for file, name := range map[string]string{
		"lib/kubernetes/containerd.toml":  "containerd.toml",
		"lib/kubernetes/kubelet.yaml":     "kubelet.yaml",
		"lib/cni/conf/10-bridge.conflist": "cni.json",
	} {
		result[file], err = render(name, map[string]string{
			"Pause":  image.Pause,
			"Cgroup": cgroup,
			"DNS4":   dns4,
			"Pods4":  node.pods4(),
			"Pods6":  node.pods6(),
		})
		if err != nil {
			return nil, err
		}
	}
	return result, nil
}

// startControl makes the control machine.
func (c *Cluster) startControl() error {
	return c.start(controlName, controlProcesses(), wireControl)
}

// StartNode makes a node's machine, the first time or after it was killed: then it finds its old disk.
func (c *Cluster) StartNode(node Node) error {
	return c.start(node.name(), nodeProcesses(node), func(machine *sandbox.Sandbox) error {
		return wireNode(c.Machines[controlName], machine, node, c.Nodes)
	})
}

// PowerCut ends a node. Its cable goes first: the kernel would say goodbye on the dying processes' connections, which no
// machine without power does.
func (c *Cluster) PowerCut(node Node) error {
	machine := c.Machines[node.name()]
	if !machine.Alive() {
		return nil
	}
	// A machine that boots finds no cgroups; a kubelet that finds some asks for minutes what they were.
	return errors.Join(
		unplug(c.Machines[controlName], node), machine.Kill(), sandbox.RemoveCgroup(c.cgroup(node.name())))
}

// Revive brings a killed node back and waits until it is ready.
func (c *Cluster) Revive(node Node) error {
	if c.Machines[node.name()].Alive() {
		return nil
	}
	if err := c.StartNode(node); err != nil {
		return err
	}
	return errors.Join(c.AwaitNode(node), c.writeEnv())
}

func (c *Cluster) start(name string, processes []sandbox.Process, wire func(*sandbox.Sandbox) error) error {
	machine, run, err := sandbox.Start(sandbox.Spec{
		Name:      name,
		Dir:       filepath.Join(c.Dir, name),
		Binaries:  map[string]string{"kubernetes": c.Kubernetes},
		Cgroup:    c.cgroup(name),
		Sysctls:   netSysctls,
		Processes: processes,
	}, func(s *sandbox.Sandbox) error {
		c.Machines[name] = s
		return c.save()
	})
	if err != nil {
		return err
	}
	if err := wire(machine); err != nil {
		return err
	}
	return run()
}
