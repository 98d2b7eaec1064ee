package cluster

import (
	"bytes"
	"context"
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

// HoldDown kills every sidecar of the namespaces' pods as soon as it lives, until the context ends: the kubelet starts it
// again, later and later. The guards and the shared proxies are left alone.
func (c *Cluster) HoldDown(ctx context.Context, say func(string, ...any), namespaces ...string) {
	killed := 0
	var pods []string
	for beat := 0; ctx.Err() == nil; beat++ {
		// Pods come and go seldom.
		if beat%50 == 0 {
			pods = c.podIDs(namespaces)
		}
		for _, pid := range sidecars(pods) {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	say("sidecars killed: %d", killed)
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

// sidecars are the processes of those pods that are sidecar proxies. This machine sees the nodes' processes.
func sidecars(pods []string) []int {
	var found []int
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
		if !slices.ContainsFunc(pods, func(id string) bool { return strings.Contains(string(cgroup), id) }) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(process)); err == nil {
			found = append(found, pid)
		}
	}
	return found
}
