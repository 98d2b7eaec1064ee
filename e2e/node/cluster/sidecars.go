package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Forget deletes namespaces and waits until they are gone.
func (c *Cluster) Forget(namespaces ...string) error {
	words := append([]string{"delete", "namespace", "--ignore-not-found", "--wait", "--timeout=120s", "--request-timeout=0"}, namespaces...)
	_, err := c.kubectl("", words...)
	return err
}

// Held is what HoldDown did.
type Held struct {
	// Pods had a sidecar that was killed at least once; Kills are all deaths.
	Pods, Kills int
}

// HoldDown kills every sidecar of the namespaces' pods as soon as it lives, until the context ends: the kubelet starts it
// again, later and later. The guards and the shared proxies are left alone.
func (c *Cluster) HoldDown(ctx context.Context, namespaces ...string) Held {
	held, hit := Held{}, map[string]bool{}
	var pods []string
	for beat := 0; ctx.Err() == nil; beat++ {
		// Pods come and go seldom.
		if beat%50 == 0 {
			pods = c.podIDs(namespaces)
		}
		for pid, pod := range sidecars(pods) {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				held.Kills++
				hit[pod] = true
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	held.Pods = len(hit)
	return held
}

// Carried counts the requests that the shared proxies have forwarded so far, by their own metrics.
func (c *Cluster) Carried() (int, error) {
	const namespace = "outrigger-system"
	names, err := c.kubectl("", "-n", namespace, "get", "pods", "-l", "app.kubernetes.io/component=shared-proxy",
		"-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		return 0, err
	}
	total := 0
	for _, name := range strings.Fields(names) {
		text, err := c.kubectl("", "get", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+name+":15022/proxy/metrics")
		if err != nil {
			return 0, err
		}
		for _, line := range strings.Split(text, "\n") {
			words := strings.Fields(line)
			if len(words) < 2 || !strings.HasPrefix(line, "outrigger_http_requests_total") {
				continue
			}
			count, err := strconv.Atoi(words[len(words)-1])
			if err != nil {
				return 0, fmt.Errorf("metrics of %s: %w", name, err)
			}
			total += count
		}
	}
	return total, nil
}

// podIDs are the pods' unique numbers, which are part of their cgroups' names.
func (c *Cluster) podIDs(namespaces []string) []string {
	var ids []string
	for _, namespace := range namespaces {
		output, err := c.kubectl("", "-n", namespace, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}")
		if err == nil {
			ids = append(ids, strings.Fields(output)...)
		}
	}
	return ids
}

// sidecars are the processes of those pods that are sidecar proxies, with their pods. This machine sees the nodes'
// processes.
func sidecars(pods []string) map[int]string {
	found := map[int]string{}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		line, err := os.ReadFile(filepath.Join(process, "cmdline"))
		if err != nil {
			continue
		}
		words := bytes.Split(line, []byte{0})
		if len(words) < 2 || filepath.Base(string(words[0])) != "outrigger-proxy" || string(words[1]) != "sidecar" {
			continue
		}
		cgroup, err := os.ReadFile(filepath.Join(process, "cgroup"))
		if err != nil {
			continue
		}
		pod := slices.IndexFunc(pods, func(id string) bool { return strings.Contains(string(cgroup), id) })
		if pid, err := strconv.Atoi(filepath.Base(process)); pod >= 0 && err == nil {
			found[pid] = pods[pod]
		}
	}
	return found
}
