package sandbox

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// controlSocket takes commands for a machine's processes, one per connection: "stop NAME", "start NAME", "signal NAME NUMBER".
const controlSocket = "/run/outrigger/control.sock"

// restartPause lies between a process' end and its next start.
const restartPause = time.Second

// supervisor keeps a machine's processes running, and collects every orphan, as a first process must.
type supervisor struct {
	mu        sync.Mutex
	processes map[string]*kept
	byPid     map[int]*kept
}

// kept is one process: pid is zero while it doesn't run.
type kept struct {
	Process
	pid     int
	stopped bool
}

func newSupervisor(spec *Spec) *supervisor {
	s := &supervisor{processes: map[string]*kept{}, byPid: map[int]*kept{}}
	for _, p := range spec.Processes {
		s.processes[p.Name] = &kept{Process: p}
	}
	return s
}

func (s *supervisor) run() error {
	if err := s.listen(); err != nil {
		return err
	}
	for _, p := range s.processes {
		go s.start(p)
	}
	// Wait4 has nothing to wait for while there is no child; the signal says when to look again.
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-children:
		case <-time.After(time.Second):
		}
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
			s.ended(pid, status)
		}
	}
}

// start waits for what the process needs, then starts it unless somebody did, or said stop.
func (s *supervisor) start(p *kept) {
	for deadline := time.Now().Add(30 * time.Second); p.After != "" && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(p.After); err == nil {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.pid != 0 || p.stopped {
		return
	}
	pid, err := spawn(p.Process)
	if err != nil {
		fmt.Printf("%s %s: %v\n", now(), p.Name, err)
		time.AfterFunc(restartPause, func() { s.start(p) })
		return
	}
	fmt.Printf("%s %s started, process %d\n", now(), p.Name, pid)
	p.pid, s.byPid[pid] = pid, p
}

func (s *supervisor) ended(pid int, status syscall.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byPid[pid]
	if p == nil {
		return
	}
	fmt.Printf("%s %s ended: status %d, signal %d\n", now(), p.Name, status.ExitStatus(), status.Signal())
	delete(s.byPid, pid)
	p.pid = 0
	time.AfterFunc(restartPause, func() { s.start(p) })
}

func spawn(p Process) (int, error) {
	log, err := os.OpenFile(filepath.Join("/var/log", p.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	return syscall.ForkExec(p.Args[0], p.Args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=" + BinDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

func (s *supervisor) listen() error {
	listener, err := net.Listen("unix", controlSocket)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				fmt.Printf("%s control socket: %v\n", now(), err)
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			answer := "ok"
			if err := s.command(strings.Fields(line)); err != nil {
				answer = err.Error()
			}
			fmt.Fprintln(conn, answer)
			conn.Close()
		}
	}()
	return nil
}

func (s *supervisor) command(words []string) error {
	if len(words) < 2 {
		return fmt.Errorf("say: stop NAME, start NAME, signal NAME NUMBER")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.processes[words[1]]
	if p == nil {
		return fmt.Errorf("no process is called %s", words[1])
	}
	number := syscall.SIGKILL
	switch words[0] {
	case "start":
		p.stopped = false
		go s.start(p)
		return nil
	case "stop":
		p.stopped = true
	case "signal":
		if len(words) < 3 {
			return fmt.Errorf("which signal?")
		}
		if _, err := fmt.Sscan(words[2], &number); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown command %s", words[0])
	}
	if p.pid == 0 {
		return nil
	}
	return syscall.Kill(p.pid, number)
}

func now() string { return time.Now().Format("15:04:05.000") }

// Tell sends a command to a machine's processes: "stop", "start", or "signal" with a number.
func (s *Sandbox) Tell(words ...string) error {
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/%d/root%s", s.Pid, controlSocket))
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, strings.Join(words, " "))
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return fmt.Errorf("%s: %s", s.Name, answer)
	}
	return nil
}
