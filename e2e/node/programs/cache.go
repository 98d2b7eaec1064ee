package programs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"syscall"
	"time"
)

// kept is how many builds of one program stay in the cache: branches take turns, and a running cluster may use an older one.
const kept = 3

// Cache holds built programs in the user's cache folder, each in a folder named after everything that went into it.
type Cache struct {
	// root is the cache folder, sources the repository's e2e folder.
	root, sources string
	// Say reports progress.
	Say func(format string, args ...any)
}

// Open finds (or makes) the cache folder for programs built from the given e2e folder.
func Open(sources string, say func(string, ...any)) (*Cache, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("no cache folder: %w; set XDG_CACHE_HOME", err)
	}
	root := filepath.Join(user, "outrigger", "e2e")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	return &Cache{root: root, sources: sources, Say: say}, nil
}

// Build gives the folder that holds the named program, and builds it if nobody has yet.
func (c *Cache) Build(name string) (string, error) {
	program, ok := Find(name)
	if !ok {
		return "", fmt.Errorf("no program is called %q", name)
	}
	hash, err := c.hash(program)
	if err != nil {
		return "", err
	}
	folder := filepath.Join(c.root, name+"-"+hash)
	if _, err := os.Stat(folder); err == nil {
		now := time.Now()
		return folder, os.Chtimes(folder, now, now)
	}
	unlock, err := c.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	if err := c.compile(program, folder); err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	c.prune(name)
	return folder, nil
}

// Path gives one program's file, built if need be.
func (c *Cache) Path(name string) (string, error) {
	folder, err := c.Build(name)
	return filepath.Join(folder, name), err
}

// compile builds into a folder beside the last one and renames it, so that what has the right name is whole.
func (c *Cache) compile(p Program, folder string) error {
	c.Say("building %s (once; minutes on two cores)", p.Name)
	started := time.Now()
	partial, err := os.MkdirTemp(c.root, "."+p.Name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(partial)
	for _, pkg := range p.Packages {
		output := filepath.Join(partial, p.Name)
		if len(p.Packages) > 1 {
			output = filepath.Join(partial, filepath.Base(pkg))
		}
		build := exec.Command("go", p.arguments(output, pkg)...)
		build.Dir = filepath.Join(c.sources, p.Module)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(build.Args, " "), err)
		}
	}
	if err := os.Chmod(partial, 0o755); err != nil {
		return err
	}
	c.Say("built %s in %s", p.Name, time.Since(started).Round(time.Second))
	return os.Rename(partial, folder)
}

func (p Program) arguments(output, pkg string) []string {
	args := []string{"build"}
	if p.Test {
		args = []string{"test", "-c"}
	}
	return append(args, "-p", "2", "-trimpath", "-buildvcs=false", "-ldflags", p.ldflags(), "-o", output, pkg)
}

func (p Program) ldflags() string {
	flags := "-s -w"
	for _, x := range p.Set {
		flags += " -X " + x
	}
	return flags
}

// hash covers the compiler, the flags, and the module's own files: dependencies are pinned by go.sum among them.
func (c *Cache) hash(p Program) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOOS, runtime.GOARCH, p.arguments("", strings.Join(p.Packages, " ")))
	module := filepath.Join(c.sources, p.Module)
	err := filepath.WalkDir(module, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, module)
		switch {
		case entry.IsDir() && path != module && isModule(path):
			return filepath.SkipDir
		case entry.IsDir() || !p.reads(name):
			return nil
		}
		return add(sum, name, path)
	})
	return hex.EncodeToString(sum.Sum(nil))[:12], err
}

// reads says whether a file of the module goes into the program: all of them when the module is the program, the
// package's folder when it is one of several, and the list of dependencies always.
func (p Program) reads(name string) bool {
	if name == "/go.mod" || name == "/go.sum" {
		return true
	}
	local, ok := strings.CutPrefix(p.Packages[0], ".")
	return ok && strings.HasPrefix(name, local+"/")
}

func isModule(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, "go.mod"))
	return err == nil
}

func add(to io.Writer, name, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	fmt.Fprintln(to, name)
	_, err = io.Copy(to, file)
	return err
}

// lock makes concurrent runs build one after the other.
func (c *Cache) lock() (func(), error) {
	file, err := os.OpenFile(filepath.Join(c.root, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		c.Say("waiting for another build to end")
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return func() { file.Close() }, nil
}

// prune removes the oldest builds of a program. What can't be removed stays.
func (c *Cache) prune(name string) {
	found, _ := filepath.Glob(filepath.Join(c.root, name+"-????????????"))
	sort.Slice(found, func(i, j int) bool { return modified(found[i]).After(modified(found[j])) })
	for _, old := range found[min(kept, len(found)):] {
		os.RemoveAll(old)
	}
}

func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
