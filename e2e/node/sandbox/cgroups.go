package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// hierarchy is one mounted cgroup tree: one per controller in version 1, a single one in version 2.
type hierarchy struct {
	root   string
	cpuset bool
	v2     bool
}

// MakeCgroup makes the path in every controller, so that a kubelet may call it its root. Two kubelets with one root would
// end each other's pods as orphans.
func MakeCgroup(path string) error {
	found, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range found {
		folder := h.root
		for part := range strings.SplitSeq(path, "/") {
			if h.v2 {
				enableAll(folder)
			}
			parent := folder
			folder = filepath.Join(folder, part)
			if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if !h.cpuset {
				continue
			}
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := inherit(parent, folder, file); err != nil {
					return err
				}
			}
		}
		if h.v2 {
			enableAll(folder)
		}
	}
	return nil
}

// RemoveCgroup removes the path and everything below it, in every controller. Its processes must have ended; the kernel may
// take a moment to see that.
func RemoveCgroup(path string) error {
	found, err := hierarchies()
	if err != nil {
		return err
	}
	var failed error
	for _, h := range found {
		top := filepath.Join(h.root, path)
		err := removeTree(top)
		for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); err = removeTree(top) {
			time.Sleep(50 * time.Millisecond)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func removeTree(top string) error {
	var folders []string
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			folders = append(folders, path)
		}
		return nil
	})
	slices.Reverse(folders)
	for _, folder := range folders {
		if removed := syscall.Rmdir(folder); removed != nil && removed != syscall.ENOENT {
			err = errors.Join(err, fmt.Errorf("removing cgroup %s: %w", folder, removed))
		}
	}
	return err
}

// inherit copies the parent's setting where there is none: a version 1 cpuset starts empty, and then takes no process.
func inherit(parent, folder, file string) error {
	if now, err := os.ReadFile(filepath.Join(folder, file)); err != nil || len(strings.TrimSpace(string(now))) > 0 {
		return err
	}
	value, err := os.ReadFile(filepath.Join(parent, file))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, file), value, 0o644)
}

// enableAll lets children use every controller the folder has. Those that can't be had are the kubelet's to complain about.
func enableAll(folder string) {
	controllers, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, name := range strings.Fields(string(controllers)) {
		_ = os.WriteFile(filepath.Join(folder, "cgroup.subtree_control"), []byte("+"+name), 0o644)
	}
}

// hierarchies lists what is mounted: version 1's controllers, version 2, or both side by side.
func hierarchies() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var v1, v2 []hierarchy
	for lines := bufio.NewScanner(file); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mount, kind := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(kind) < 3 || !strings.HasPrefix(mount[4], "/sys/fs/cgroup") {
			continue
		}
		options := strings.Split(kind[2], ",")
		switch kind[0] {
		case "cgroup":
			v1 = append(v1, hierarchy{root: mount[4], cpuset: slices.Contains(options, "cpuset")})
		case "cgroup2":
			v2 = append(v2, hierarchy{root: mount[4], v2: true})
		}
	}
	if len(v1)+len(v2) == 0 {
		return nil, errors.New("no cgroups are mounted in /sys/fs/cgroup")
	}
	return append(v1, v2...), nil
}
