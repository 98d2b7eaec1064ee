package programs

import (
	"os"
	"path/filepath"
	"testing"
)

// module makes a module with one package, a neighbour of it, and a module below it.
func module(t *testing.T) (*Cache, func(file, content string)) {
	t.Helper()
	sources := t.TempDir()
	write := func(file, content string) {
		path := filepath.Join(sources, "m", file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module m")
	write("main.go", "package main")
	write("pause/main.go", "package main")
	write("below/go.mod", "module m/below")
	return &Cache{sources: sources}, write
}

func TestOnlyWhatGoesIntoAProgramRebuildsIt(t *testing.T) {
	whole := Program{Name: "whole", Module: "m", Packages: []string{"."}}
	part := Program{Name: "part", Module: "m", Packages: []string{"./pause"}}
	foreign := Program{Name: "foreign", Module: "m", Packages: []string{"example.org/program"}}
	cases := []struct {
		file                 string
		whole, part, foreign bool
	}{
		{"main.go", true, false, false},
		{"pause/main.go", true, true, false},
		{"go.mod", true, true, true},
		{"below/main.go", false, false, false},
	}
	for _, c := range cases {
		cache, write := module(t)
		hash := func(p Program) string {
			value, err := cache.hash(p)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
		before := []string{hash(whole), hash(part), hash(foreign)}
		write(c.file, "package main // changed")
		after := []string{hash(whole), hash(part), hash(foreign)}
		for at, changes := range []bool{c.whole, c.part, c.foreign} {
			if (before[at] != after[at]) != changes {
				t.Errorf("%s, program %d: rebuilt %v, wanted %v", c.file, at, !changes, changes)
			}
		}
	}
}

func TestVersionIsSet(t *testing.T) {
	program, _ := Find("kubernetes")
	want := "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34"
	if got := program.ldflags(); got != want {
		t.Error(got)
	}
}
