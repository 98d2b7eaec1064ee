package image

import (
	"debug/elf"
	"fmt"
	"os/exec"
	"strings"
)

// Libraries gives the shared libraries a program needs, the dynamic loader among them, by the path it looks for them at.
// A static program needs none.
func Libraries(program string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	defer file.Close()
	if file.Section(".interp") == nil {
		return nil, nil
	}
	output, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w: %s", program, err, output)
	}
	return parse(string(output))
}

// parse reads ldd's lines: "name => /path (address)", "/path/of/the/loader (address)", "linux-vdso.so.1 (address)".
func parse(output string) ([]string, error) {
	var found []string
	for line := range strings.Lines(output) {
		words := strings.Fields(line)
		switch {
		case strings.Contains(line, "not found"):
			return nil, fmt.Errorf("missing library: %s", strings.TrimSpace(line))
		case len(words) >= 3 && words[1] == "=>":
			found = append(found, words[2])
		case len(words) >= 1 && strings.HasPrefix(words[0], "/"):
			found = append(found, words[0])
		}
	}
	return found, nil
}
