package conformance

import (
	"io"
	"strings"
	"testing"
)

const output = "\x16=== RUN   TestMesh\n" +
	"outrigger: set up\n" +
	"\x16    --- PASS: TestMesh/Suite (1.00s)\n" +
	"\x16        --- PASS: TestMesh/Suite/MeshBasic (0.50s)\n" +
	"\x16            --- FAIL: TestMesh/Suite/MeshPorts/case_one (0.50s)\n" +
	"\x16        --- FAIL: TestMesh/Suite/MeshPorts (0.50s)\n" +
	"\x16        --- SKIP: TestMesh/Suite/MeshFrontend (0.00s)\n" +
	"\x16        --- SKIP: TestMesh/Suite/GatewayWithSomething (0.00s)\n" +
	"    mesh_test.go:1: --- PASS: TestMesh/Suite/MeshTrafficSplit (0.00s)\n"

func read(t *testing.T) Results {
	t.Helper()
	ready := 0
	results, err := Read(strings.NewReader(output), io.Discard, func() { ready++ }, func(string, ...any) {})
	if err != nil || ready != 1 {
		t.Fatalf("error %v, ready %d times", err, ready)
	}
	return results
}

func TestReadsVerdictsOfWholeTestsOnly(t *testing.T) {
	results := read(t)
	want := Results{"MeshBasic": Pass, "MeshPorts": Fail, "MeshFrontend": Skip}
	if len(results) != len(want) {
		t.Fatalf("%v", results)
	}
	for test, outcome := range want {
		if results[test] != outcome {
			t.Errorf("%s: %s", test, results[test])
		}
	}
}

func TestSkippedAndMissingTestsFail(t *testing.T) {
	_, err := read(t).Judge(true)
	for _, part := range []string{"MeshFrontend: skip, wanted pass", "MeshTrafficSplit: not run", "MeshPorts: fail"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v lacks %q", err, part)
		}
	}
}

func TestControlWantsFailures(t *testing.T) {
	results := Results{}
	for test, outcome := range Expected(false) {
		results[test] = outcome
	}
	if _, err := results.Judge(false); err != nil {
		t.Error(err)
	}
	results["MeshPorts"] = Pass
	if _, err := results.Judge(false); err == nil || !strings.Contains(err.Error(), "MeshPorts: pass, wanted fail") {
		t.Error(err)
	}
}

func TestCountsWhatDidAsItMust(t *testing.T) {
	rows, _ := read(t).Judge(false)
	if line := Count("control", rows); line != "control result: 2 passed, 28 failed, 0 skipped" {
		t.Error(line)
	}
}

func TestThereAre22(t *testing.T) {
	if len(Suite) != 22 || len(Overlay) != 8 {
		t.Errorf("%d and %d", len(Suite), len(Overlay))
	}
}
