package conformance

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
)

// setUp is the line after which the suite's pods run and its first test hasn't begun.
const setUp = "outrigger: set up"

// verdictLine is how Go's test runner reports a test with -test.v=test2json: a control character marks real ones.
var verdictLine = regexp.MustCompile(`^\x16?\s*--- (PASS|FAIL|SKIP): TestMesh/(?:Suite|Suite#01|Overlay)/([^/\s]+) \(([0-9.]+)s\)`)

// Results are what a run did, by test.
type Results map[string]Outcome

// Read follows a run's output to its end, copies it, and reports as it goes. Ready is called once, when the suite is set up.
func Read(output io.Reader, log io.Writer, ready func(), say func(string, ...any)) (Results, error) {
	results := Results{}
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		line := lines.Text()
		fmt.Fprintln(log, strings.TrimPrefix(line, "\x16"))
		if line == setUp {
			ready()
		}
		found := verdictLine.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		outcome := Outcome(strings.ToLower(found[1]))
		// The whole suite passes by, gateways' tests included: those are skipped and nobody's business.
		// So is a test's second turn, in the control run.
		_, known := Expected(true)[found[2]]
		if _, before := results[found[2]]; known && !before {
			results[found[2]] = outcome
			say("%s: %s (%s s)", found[2], outcome, found[3])
		}
	}
	return results, lines.Err()
}

// Row is one test's line in the verdict.
type Row struct {
	Test          string
	Wanted, Found Outcome
}

// Judge compares with what must be. It gives every row, and an error that names each test that did otherwise.
func (r Results) Judge(mesh bool) ([]Row, error) {
	var rows []Row
	var wrong []string
	for test, wanted := range Expected(mesh) {
		found, ran := r[test]
		if !ran {
			found = NotRun
		}
		rows = append(rows, Row{test, wanted, found})
		if found != wanted {
			wrong = append(wrong, fmt.Sprintf("%s: %s, wanted %s", test, found, wanted))
		}
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].Test < rows[j].Test })
	if len(wrong) == 0 {
		return rows, nil
	}
	sort.Strings(wrong)
	return rows, fmt.Errorf("%d of %d tests did not do what they must:\n  %s", len(wrong), len(rows), strings.Join(wrong, "\n  "))
}

// Count is the line that `./dev test` adds up, under the run's name: who did what it must has passed, and who was skipped or didn't run has failed.
func Count(name string, rows []Row) string {
	passed := 0
	for _, row := range rows {
		if row.Found == row.Wanted {
			passed++
		}
	}
	return fmt.Sprintf("%s result: %d passed, %d failed, 0 skipped", name, passed, len(rows)-passed)
}

// Table is the verdict for people, in Markdown.
func Table(title string, rows []Row) string {
	var text strings.Builder
	fmt.Fprintf(&text, "# %s\n\n| test | wanted | found |\n|---|---|---|\n", title)
	for _, row := range rows {
		fmt.Fprintf(&text, "| %s | %s | %s |\n", row.Test, row.Wanted, row.Found)
	}
	return text.String()
}
