package cluster

import (
	"bytes"
	"fmt"
	"strings"

	"outrigger.dev/e2e/node/sandbox"
)

// Addresses are fixed: each cluster has networks of its own, so nothing collides. The control machine is the switch and
// the router; nodes reach each other's pods directly.
const (
	controlName = "control"
	control4    = "10.80.0.1"
	control6    = "fd80::1"
	pods4       = "10.81.0.0/16"
	pods6       = "fd81::/48"
	services4   = "10.82.0.0/16"
	services6   = "fd82::/112"
	// apiService4 is the first address of the services' range: the API server's own Service.
	apiService4 = "10.82.0.1"
	apiService6 = "fd82::1"
	dns4        = "10.82.0.10"
	dns6        = "fd82::a"
	server      = "https://" + control4 + ":6443"
)

// Node is one node's place: its number gives its addresses and pod ranges.
type Node struct {
	Number int    `json:"number"`
	Zone   string `json:"zone"`
}

const region = "region-1"

func (n Node) name() string  { return fmt.Sprintf("node-%d", n.Number) }
func (n Node) addr4() string { return fmt.Sprintf("10.80.0.%d", 10+n.Number) }
func (n Node) addr6() string { return fmt.Sprintf("fd80::%d", 10+n.Number) }
func (n Node) pods4() string { return fmt.Sprintf("10.81.%d.0/24", n.Number) }
func (n Node) pods6() string { return fmt.Sprintf("fd81:0:0:%d::/64", n.Number) }

// netSysctls make a machine route, and make bridged pods' traffic pass the rules that kube-proxy installs.
var netSysctls = map[string]string{
	"net.ipv4.ip_forward":                 "1",
	"net.ipv6.conf.all.forwarding":        "1",
	"net.ipv6.conf.default.accept_dad":    "0",
	"net.bridge.bridge-nf-call-iptables":  "1",
	"net.bridge.bridge-nf-call-ip6tables": "1",
}

// wireControl sets up the switch.
func wireControl(control *sandbox.Sandbox) error {
	return ip(control,
		"link add br0 type bridge",
		"addr add "+control4+"/24 dev br0",
		"addr add "+control6+"/64 dev br0 nodad",
		"link set br0 up",
		// Services' addresses need some route to be turned into a pod's.
		"route add "+services4+" dev br0",
		"route add "+services6+" dev br0",
	)
}

// wireNode plugs a node in. It is made in the control machine's namespace with its other end in the node's, so that no
// interface ever appears on the host. A node that comes back finds its routes still there.
func wireNode(control, machine *sandbox.Sandbox, node Node, all []Node) error {
	// The last one's cable may hang there for a moment yet. There usually is none, so failing is fine.
	_ = ip(control, "link del "+node.name())
	err := ip(control,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %d", node.name(), machine.Pid),
		fmt.Sprintf("link set %s master br0 up", node.name()),
		fmt.Sprintf("route replace %s via %s", node.pods4(), node.addr4()),
		fmt.Sprintf("route replace %s via %s", node.pods6(), node.addr6()),
	)
	if err != nil {
		return err
	}
	commands := []string{
		"addr add " + node.addr4() + "/24 dev eth0",
		"addr add " + node.addr6() + "/64 dev eth0 nodad",
		"link set eth0 up",
		"route add 0.0.0.0/0 via " + control4,
		"route add ::/0 via " + control6,
	}
	for _, other := range all {
		if other != node {
			commands = append(commands,
				fmt.Sprintf("route add %s via %s", other.pods4(), other.addr4()),
				fmt.Sprintf("route add %s via %s", other.pods6(), other.addr6()))
		}
	}
	return ip(machine, commands...)
}

// unplug takes a node off the switch. Its pods' neighbours keep its addresses, and get no answer.
func unplug(control *sandbox.Sandbox, node Node) error {
	return ip(control, "link set "+node.name()+" down")
}

// ip runs iproute2 commands, one a line, in a machine's network.
func ip(in *sandbox.Sandbox, commands ...string) error {
	command := in.InNet("ip", "-batch", "-")
	command.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return fmt.Errorf("network of %s: %w: %s", in.Name, err, strings.TrimSpace(output.String()))
	}
	return nil
}
