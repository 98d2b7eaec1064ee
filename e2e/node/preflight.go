package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// needed are the programs that come from the distribution, and the Debian packages that bring them.
var needed = []struct{ program, debianPackage string }{
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"/usr/lib/cni/bridge", "containernetworking-plugins"},
	{"/usr/lib/cni/portmap", "containernetworking-plugins"},
	{"etcd", "etcd-server"},
	{"iptables", "iptables"},
	{"nft", "nftables"},
	{"ip", "iproute2"},
	{"conntrack", "conntrack"},
	{"socat", "socat"},
	{"nsenter", "util-linux"},
}

// preflight names everything that is missing at once, before minutes are spent on builds.
func preflight() error {
	if os.Getuid() != 0 {
		return errors.New("a node needs root: it makes namespaces, mounts and cgroups (or use --kubeconfig)")
	}
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	missing := []string{}
	seen := map[string]bool{}
	for _, n := range needed {
		if _, err := exec.LookPath(n.program); err != nil && !seen[n.debianPackage] {
			missing = append(missing, n.debianPackage)
			seen[n.debianPackage] = true
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s. Install these (Debian, Ubuntu: sudo apt-get install %[1]s), or let ./dev do it", strings.Join(missing, " "))
	}
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		return errors.New("the kernel lacks br_netfilter (modprobe br_netfilter)")
	}
	return nil
}
