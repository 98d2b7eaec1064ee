package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"outrigger.dev/e2e/node/cluster"
	"outrigger.dev/e2e/node/conformance"
)

// runConformance runs the suite in the cluster, in its network, and judges it.
func runConformance(args []string) error {
	set, dir := flags("conformance")
	mode := set.String("mode", "sidecar", "sidecar, shared, or none for the control without a mesh")
	down := set.Bool("sidecars-down", false, "kill every sidecar of the suite's pods, over and over, while the tests run")
	reports := set.String("report", "", "folder for the suite's report and the verdict")
	version := set.String("version", "development", "Outrigger's version, for the report")
	if err := set.Parse(args); err != nil {
		return err
	}
	at, err := folder(*dir)
	if err != nil {
		return err
	}
	c, err := cluster.Load(at)
	if err != nil {
		return err
	}
	program, err := built("conformance")
	if err != nil {
		return err
	}
	if err := gatewayAPI([]string{"--dir", at}); err != nil {
		return err
	}
	name, result := *mode, "conformance"
	if *mode == "none" {
		result = "control"
	}
	if *down {
		name, result = name+"-sidecars-down", "sidecarsdown"
	}
	words := []string{
		program, "-test.run=^TestMesh$", "-test.v=test2json", "-test.timeout=30m",
		"-outrigger-mode=" + *mode, "-outrigger-version=" + *version,
	}
	if *reports != "" {
		if err := os.MkdirAll(*reports, 0o755); err != nil {
			return err
		}
		path, err := filepath.Abs(filepath.Join(*reports, name+".yaml"))
		if err != nil {
			return err
		}
		words = append(words, "-outrigger-report="+path)
	}
	say("Gateway API mesh conformance, %s", name)
	results, log, err := follow(c, name, words, *down)
	if err != nil {
		return err
	}
	rows, verdict := results.Judge(*mode != "none")
	fmt.Println(conformance.Count(result, rows))
	if *reports != "" {
		table := conformance.Table("Gateway API v1.6.3 mesh conformance: "+name, rows)
		if err := os.WriteFile(filepath.Join(*reports, name+".md"), []byte(table), 0o644); err != nil {
			return err
		}
	}
	if verdict != nil {
		return fmt.Errorf("%w\n(log: %s)", verdict, log)
	}
	say("all %d tests did what they must", len(rows))
	return nil
}

// follow runs the suite and reads what it did. That tests fail is no error here: in the control run they must.
func follow(c *cluster.Cluster, name string, words []string, down bool) (conformance.Results, string, error) {
	if err := c.Forget(conformance.Namespaces...); err != nil {
		return nil, "", err
	}
	log, err := os.Create(filepath.Join(c.Dir, "conformance-"+name+".log"))
	if err != nil {
		return nil, "", err
	}
	defer log.Close()
	command := c.Enter(words...)
	output, write := io.Pipe()
	command.Stdout, command.Stderr = write, write
	if err := command.Start(); err != nil {
		return nil, "", err
	}
	go func() {
		// The exit status says no more than the verdicts do.
		_ = command.Wait()
		write.Close()
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var held chan cluster.Held
	before := 0
	ready := func() {
		if down {
			before, err = c.Carried()
			held = make(chan cluster.Held, 1)
			go func() { held <- c.HoldDown(ctx, conformance.Namespaces...) }()
		}
	}
	results, readError := conformance.Read(output, log, ready, say)
	err = errors.Join(err, readError)
	if held != nil && err == nil {
		cancel()
		err = wereDown(c, <-held, before)
	}
	if err == nil && len(results) == 0 {
		err = errors.New("the suite did not get as far as its first test")
	}
	if err != nil {
		err = fmt.Errorf("%w (log: %s)", err, log.Name())
	}
	return results, log.Name(), err
}

// wereDown is the proof that the suite spoke to shared proxies: a sidecar that lived would pass its tests as well.
func wereDown(c *cluster.Cluster, held cluster.Held, before int) error {
	after, err := c.Carried()
	if err != nil {
		return err
	}
	say("%d sidecars killed %d times; shared proxies carried %d requests", held.Pods, held.Kills, after-before)
	// Every test asks for so many successes in a row.
	if least := 20 * len(conformance.Suite); after-before < least {
		return fmt.Errorf("shared proxies carried %d requests, fewer than %d: the sidecars were not down", after-before, least)
	}
	return nil
}
