package sandbox

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// InitCommand is the hidden command by which the harness starts itself as a machine's first process.
const InitCommand = "machine-init"

// BinDir is where a machine sees Spec.Binaries.
const BinDir = "/run/outrigger/bin"

// hostSettings are kernel settings of the whole host that a kubelet insists on. It sees, and writes, files that are mounted
// over them in its own machine, so that the host keeps its own.
var hostSettings = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// Init is a machine's first process. It returns only on failure.
func Init(file string) error {
	tell := os.NewFile(3, "ready")
	spec, err := setUp(file)
	if err != nil {
		fmt.Fprintln(tell, err)
		return err
	}
	fmt.Fprintln(tell, readyLine)
	tell.Close()
	// Whoever started this sets up the network now. If it dies meanwhile, so does the machine.
	if line, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil || line != "go\n" {
		return fmt.Errorf("not told to go on: %v", err)
	}
	return newSupervisor(spec).run()
}

func setUp(file string) (*Spec, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	spec := new(Spec)
	if err := json.Unmarshal(content, spec); err != nil {
		return nil, err
	}
	if err := syscall.Sethostname([]byte(spec.Name)); err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	if err := mountAll(spec); err != nil {
		return nil, err
	}
	if output, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ip link set lo up: %s", output)
	}
	for name, value := range spec.Sysctls {
		path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return nil, fmt.Errorf("sysctl %s: %w", name, err)
		}
	}
	return spec, nil
}

// mountAll gives the machine its own /proc, /run and /var, whatever of these its folder or binaries lie below.
func mountAll(spec *Spec) error {
	run := filepath.Join(spec.Dir, "run")
	inRun := func(path string) string { return filepath.Join(run, "outrigger", path) }
	m := mounter{}
	m.mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	m.mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "")
	m.mount("tmpfs", run, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755")
	m.folder(inRun("dir"))
	m.folder(inRun("bin"))
	for name, path := range spec.Binaries {
		m.file(inRun("bin/"+name), "")
		m.mount(path, inRun("bin/"+name), "", syscall.MS_BIND, "")
	}
	for name, value := range hostSettings {
		shadow := inRun("settings/" + name)
		m.folder(filepath.Dir(shadow))
		m.file(shadow, value+"\n")
		m.mount(shadow, filepath.Join("/proc/sys", name), "", syscall.MS_BIND, "")
	}
	m.mount(spec.Dir, inRun("dir"), "", syscall.MS_BIND, "")
	m.mount(run, "/run", "", syscall.MS_BIND|syscall.MS_REC, "")
	m.mount("/run/outrigger/dir/var", "/var", "", syscall.MS_BIND, "")
	// Volumes with mount propagation need shared mounts; shared within this machine only, since it cut the tie above.
	m.mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, "")
	if m.err != nil {
		return m.err
	}
	if err := os.Symlink("/run", "/var/run"); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}

// mounter does one thing after the other until the first that fails.
type mounter struct{ err error }

func (m *mounter) mount(source, target, kind string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		m.err = fmt.Errorf("mounting %q on %s: %w", source, target, err)
	}
}

func (m *mounter) folder(path string) {
	if m.err == nil {
		m.err = os.MkdirAll(path, 0o755)
	}
}

func (m *mounter) file(path, content string) {
	if m.err == nil {
		m.err = os.WriteFile(path, []byte(content), 0o644)
	}
}
