package cluster

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"outrigger.dev/e2e/node/image"
	"outrigger.dev/e2e/node/sandbox"
)

// Import puts images into every node. Names that exist are replaced; running containers keep what they have.
func (c *Cluster) Import(images []*image.Image) error {
	if c.Foreign && len(images) > 0 {
		return errors.New("this cluster isn't ours: load images by its own means (kind load image-archive)")
	}
	for _, i := range images {
		if err := c.importOne(i); err != nil {
			return fmt.Errorf("importing %s: %w", strings.Join(i.Names, ", "), err)
		}
	}
	return nil
}

// importOne writes the image's tar once and gives it to all nodes at the same time.
func (c *Cluster) importOne(i *image.Image) error {
	archive, err := os.CreateTemp(c.Dir, "image-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(archive.Name())
	if err := errors.Join(i.Write(archive), archive.Close()); err != nil {
		return err
	}
	results := make(chan error)
	for _, node := range c.Nodes {
		go func() { results <- load(c.Machines[node.name()], archive.Name()) }()
	}
	var failed error
	for range c.Nodes {
		failed = errors.Join(failed, <-results)
	}
	return failed
}

func load(machine *sandbox.Sandbox, archive string) error {
	if !machine.Alive() {
		return fmt.Errorf("%s does not run", machine.Name)
	}
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	command := machine.Inside("ctr", "-a", containerdSocket, "-n", "k8s.io", "image", "import", "-")
	command.Stdin = file
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", machine.Name, err, strings.TrimSpace(string(output)))
	}
	return nil
}
