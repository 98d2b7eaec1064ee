package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	"outrigger.dev/e2e/node/cluster"
	"outrigger.dev/e2e/node/image"
	"outrigger.dev/e2e/node/programs"
)

func up(args []string) error {
	set, dir := flags("up")
	kubeconfig := set.String("kubeconfig", "", "an administrator's kubeconfig of a running cluster")
	var images list
	set.Var(&images, "image", "NAME=PATH of an image to make and import")
	if err := set.Parse(args); err != nil {
		return err
	}
	at, err := folder(*dir)
	if err != nil {
		return err
	}
	e2e, err := sources()
	if err != nil {
		return err
	}
	cache, err := programs.Open(e2e, say)
	if err != nil {
		return err
	}
	helm, err := cache.Path("helm")
	if err != nil {
		return err
	}
	if *kubeconfig != "" {
		if len(images) > 0 {
			return errors.New("that cluster isn't ours: load images by its own means (kind load image-archive)")
		}
		if err := cluster.Down(at); err != nil {
			return err
		}
		c, err := cluster.Adopt(at, *kubeconfig, helm)
		return report(c, err)
	}
	made, err := fromBinaries(images)
	if err != nil {
		return err
	}
	c, err := cluster.Load(at)
	if err == nil && c.Alive() {
		say("the cluster in %s is up", at)
		return report(c, c.Import(made))
	}
	if err := cluster.Down(at); err != nil {
		return err
	}
	if err := preflight(); err != nil {
		return err
	}
	kubernetes, err := cache.Path("kubernetes")
	if err != nil {
		return err
	}
	catalog, err := image.Catalog(cache.Build)
	if err != nil {
		return err
	}
	c, err = cluster.Up(cluster.Options{
		Dir:        at,
		Zones:      []string{"zone-a", "zone-b"},
		Kubernetes: kubernetes,
		Helm:       helm,
		Images:     append(catalog, made...),
		Say:        say,
	})
	if err != nil {
		say("it did not come up; its folder stays for a look, `down` removes it")
	}
	return report(c, err)
}

func report(c *cluster.Cluster, err error) error {
	if err == nil {
		say("ready. To use it:  . %s/env", c.Dir)
	}
	return err
}

func down(args []string) error {
	set, dir := flags("down")
	if err := set.Parse(args); err != nil {
		return err
	}
	at, err := folder(*dir)
	if err != nil {
		return err
	}
	return cluster.Down(at)
}

func importImages(args []string) error {
	c, rest, err := running("image", args)
	if err != nil {
		return err
	}
	images, err := fromBinaries(rest)
	if err != nil {
		return err
	}
	return c.Import(images)
}

// fromBinaries makes images of NAME=PATH words; several names of one path are one image.
func fromBinaries(words []string) ([]*image.Image, error) {
	var images []*image.Image
	var paths []string
	for _, word := range words {
		name, path, ok := strings.Cut(word, "=")
		if !ok {
			return nil, fmt.Errorf("an image is NAME=PATH, not %q", word)
		}
		if same := slices.Index(paths, path); same >= 0 {
			images[same].Names = append(images[same].Names, name)
			continue
		}
		made, err := image.FromBinaries(name, path)
		if err != nil {
			return nil, err
		}
		images, paths = append(images, made), append(paths, path)
	}
	return images, nil
}

func env(args []string) error {
	c, _, err := running("env", args)
	if err == nil {
		fmt.Print(c.Env())
	}
	return err
}

func run(args []string) error {
	c, rest, err := running("run", args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return errors.New("run what?")
	}
	command := c.Enter(rest...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = command.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	return err
}

func node(args []string) error {
	c, rest, err := running("node", args)
	if err != nil {
		return err
	}
	if len(rest) != 2 {
		return errors.New("say: node kill NAME, or node start NAME")
	}
	n, err := c.Node(rest[1])
	if err != nil {
		return err
	}
	switch rest[0] {
	case "kill":
		return c.PowerCut(n)
	case "start":
		return c.Revive(n)
	}
	return fmt.Errorf("a node can be killed or started, not %q", rest[0])
}

func process(args []string) error {
	c, rest, err := running("process", args)
	if err != nil {
		return err
	}
	if len(rest) < 3 {
		return errors.New("say: process stop|start|signal MACHINE NAME [NUMBER]")
	}
	machine := c.Machines[rest[1]]
	if machine == nil {
		return fmt.Errorf("no machine is called %q", rest[1])
	}
	return machine.Tell(append([]string{rest[0]}, rest[2:]...)...)
}

func build(args []string) error {
	names := args
	if len(names) == 0 {
		for _, p := range programs.All {
			names = append(names, p.Name)
		}
	}
	for _, name := range names {
		if _, err := built(name); err != nil {
			return err
		}
	}
	return nil
}

func path(args []string) error {
	if len(args) != 1 {
		return errors.New("the path of which program?")
	}
	at, err := built(args[0])
	if err == nil {
		fmt.Println(at)
	}
	return err
}

func built(name string) (string, error) {
	e2e, err := sources()
	if err != nil {
		return "", err
	}
	cache, err := programs.Open(e2e, say)
	if err != nil {
		return "", err
	}
	return cache.Path(name)
}

// running loads the cluster a command is about, and gives the words after the flags.
func running(name string, args []string) (*cluster.Cluster, []string, error) {
	set, dir := flags(name)
	if err := set.Parse(args); err != nil {
		return nil, nil, err
	}
	at, err := folder(*dir)
	if err != nil {
		return nil, nil, err
	}
	c, err := cluster.Load(at)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("no cluster in %s: `up` brings one up", at)
	}
	return c, set.Args(), err
}
