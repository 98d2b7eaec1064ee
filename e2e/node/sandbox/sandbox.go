// Package sandbox owns one "machine" of the cluster: a process that is the first of its own PID, mount, network, host
// name and IPC namespaces, and everything that runs below it. Ending that process ends every process, mount, socket and
// interface in it, so that nothing has to be found and cleaned up one by one. Only its folder and cgroups outlive it.
//
// It knows nothing of Kubernetes, and must never touch a namespace that isn't its own.
package sandbox

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Spec says what a machine is made of. It is written to a file, for the process inside.
type Spec struct {
	Name string
	// Dir is the machine's folder on the host. Its "var" is the machine's /var; "init.log" tells the machine's own story.
	Dir string
	// Binaries are files of the host seen inside, in /run/outrigger/bin, by name.
	Binaries map[string]string
	// Cgroup is a path below every controller's root, for this machine alone.
	Cgroup string
	// Sysctls are set inside, and belong to the network namespace.
	Sysctls map[string]string
	// Processes are kept running.
	Processes []Process
}

// Process is one program kept running inside.
type Process struct {
	Name string
	Args []string
	// After, if set, is a file (a socket, say) to wait for before the start.
	After string
}

// Sandbox names a machine's first process. The start time tells it from a later process with the same number.
type Sandbox struct {
	Name    string `json:"name"`
	Dir     string `json:"dir"`
	Cgroup  string `json:"cgroup"`
	Pid     int    `json:"pid"`
	Started string `json:"started"`
	// Namespace is the process namespace, as the kernel names it: it tells when the last process is gone.
	Namespace string `json:"namespace"`
}

// readyLine is what the process inside says once the machine is set up; anything else is an error's text.
const readyLine = "ready"

// Start makes the machine. It doesn't run its processes before Go is called, so that its network can be set up; a caller
// that dies before that leaves nothing running. Record is called as soon as there is something to clean up.
func Start(spec Spec, record func(*Sandbox) error) (s *Sandbox, run func() error, err error) {
	for _, folder := range []string{"var/log", "var/lib", "var/tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(spec.Dir, folder), 0o755); err != nil {
			return nil, nil, err
		}
	}
	if err := MakeCgroup(spec.Cgroup); err != nil {
		return nil, nil, err
	}
	encoded, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	file := filepath.Join(spec.Dir, "spec.json")
	if err := os.WriteFile(file, encoded, 0o644); err != nil {
		return nil, nil, err
	}
	log, err := os.OpenFile(filepath.Join(spec.Dir, "init.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	ready, tellReady, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer ready.Close()
	first := exec.Command("/proc/self/exe", InitCommand, file)
	first.Stdout, first.Stderr = log, log
	first.ExtraFiles = []*os.File{tellReady}
	first.Dir = "/"
	first.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	release, err := first.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	err = first.Start()
	tellReady.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("starting %s in namespaces of its own: %w", spec.Name, err)
	}
	go first.Wait() //nolint:errcheck // Only so that it doesn't stay a zombie; how it ended is in its log.
	s = &Sandbox{
		Name: spec.Name, Dir: spec.Dir, Cgroup: spec.Cgroup,
		Pid: first.Process.Pid, Started: started(first.Process.Pid), Namespace: namespace(first.Process.Pid),
	}
	if err := record(s); err != nil {
		return s, nil, err
	}
	line, _ := bufio.NewReader(ready).ReadString('\n')
	if line = strings.TrimSpace(line); line != readyLine {
		return s, nil, fmt.Errorf("%s did not come up: %s (log: %s)", spec.Name, line, log.Name())
	}
	return s, func() error {
		_, err := release.Write([]byte("go\n"))
		return errors.Join(err, release.Close())
	}, nil
}

// Alive says whether the machine's first process still is the one that was started.
func (s *Sandbox) Alive() bool {
	return s.Started != "" && started(s.Pid) == s.Started
}

// Kill ends the machine as a power cut would, and waits until everything in it is gone. It is safe to call twice.
func (s *Sandbox) Kill() error {
	if !s.Alive() {
		return nil
	}
	if err := syscall.Kill(s.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); s.Alive() || s.populated(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s (process %d) does not end", s.Name, s.Pid)
		}
	}
	return nil
}

// populated says whether any process is left in the machine: its first may be seen to end before them.
func (s *Sandbox) populated() bool {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err == nil && s.Namespace != "" && namespace(pid) == s.Namespace {
			return true
		}
	}
	return false
}

// Net is the path of the machine's network namespace.
func (s *Sandbox) Net() string { return fmt.Sprintf("/proc/%d/ns/net", s.Pid) }

// InNet is a command of the host in the machine's network namespace.
func (s *Sandbox) InNet(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + s.Net()}, args...)...)
}

// Inside is a command in all of the machine's namespaces.
func (s *Sandbox) Inside(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(s.Pid), "-m", "-n", "-p", "-u", "-i"}, args...)...)
}

// namespace names a living process' process namespace, or nothing.
func namespace(pid int) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return ""
	}
	return name
}

// started is the start time of a living process as the kernel writes it, or nothing.
func started(pid int) string {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(content), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}
