package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// gatewayModule is pinned by the conformance module's go.mod: the suite refuses definitions of any other version.
const gatewayModule = "sigs.k8s.io/gateway-api"

// gatewayAPI applies the standard channel's definitions, out of the Go module.
func gatewayAPI(args []string) error {
	c, _, err := running("gateway-api", args)
	if err != nil {
		return err
	}
	e2e, err := sources()
	if err != nil {
		return err
	}
	if err := goCommand(e2e, "mod", "download", gatewayModule); err != nil {
		return err
	}
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", gatewayModule)
	list.Dir = filepath.Join(e2e, "conformance")
	folder, err := list.Output()
	if err != nil {
		return fmt.Errorf("where is %s? %w", gatewayModule, err)
	}
	return c.Apply(filepath.Join(strings.TrimSpace(string(folder)), "config/crd/standard"))
}

func goCommand(e2e string, args ...string) error {
	command := exec.Command("go", args...)
	command.Dir = filepath.Join(e2e, "conformance")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, output)
	}
	return nil
}
