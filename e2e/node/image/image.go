// Package image owns container images made without a container engine: a layer of files, a configuration and an OCI layout
// around them, written as one tar that containerd imports. Same files, same bytes.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
)

// Image is what goes into one image.
type Image struct {
	// Names are all names the image gets, with tags.
	Names []string
	// Files are paths in the image, and where their content lies on this machine.
	Files map[string]string
	// Texts are small files given as text.
	Texts map[string]string
	// Folders are empty folders, writable by everyone: mount points and /tmp.
	Folders []string

	User       string
	Entrypoint []string
	Env        []string
}

const (
	layoutFile = `{"imageLayoutVersion":"1.0.0"}`
	layerType  = "application/vnd.oci.image.layer.v1.tar"
	configType = "application/vnd.oci.image.config.v1+json"
	imageType  = "application/vnd.oci.image.manifest.v1+json"
	indexType  = "application/vnd.oci.image.index.v1+json"
	nameKey    = "io.containerd.image.name"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Write writes the image as an OCI layout in a tar.
func (i *Image) Write(to io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Names[0], err)
	}
	blobs := map[string][]byte{}
	add := func(mediaType string, content []byte) descriptor {
		sum := sha256.Sum256(content)
		name := hex.EncodeToString(sum[:])
		blobs["blobs/sha256/"+name] = content
		return descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: len(content)}
	}
	addJSON := func(mediaType string, value any) descriptor {
		content, err := json.Marshal(value)
		if err != nil {
			panic(err) // Maps of strings always encode.
		}
		return add(mediaType, content)
	}
	content := add(layerType, layer)
	config := addJSON(configType, i.config(content.Digest))
	manifest := addJSON(imageType, map[string]any{
		"schemaVersion": 2, "mediaType": imageType, "config": config, "layers": []descriptor{content},
	})
	var named []descriptor
	for _, name := range i.Names {
		manifest.Annotations = map[string]string{nameKey: canonical(name)}
		named = append(named, manifest)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": named})
	if err != nil {
		return err
	}
	blobs["oci-layout"], blobs["index.json"] = []byte(layoutFile), index
	out := tar.NewWriter(to)
	for _, name := range sorted(blobs) {
		if err := entry(out, name, 0o644, blobs[name]); err != nil {
			return err
		}
	}
	return out.Close()
}

// canonical spells a name out as the kubelet asks for it: a name without a registry is Docker Hub's, without a folder its
// library's. A registry has a dot or a port, or is localhost.
func canonical(name string) string {
	registry, _, found := strings.Cut(name, "/")
	switch {
	case !found:
		return "docker.io/library/" + name
	case !strings.ContainsAny(registry, ".:") && registry != "localhost":
		return "docker.io/" + name
	}
	return name
}

func (i *Image) config(layerDigest string) map[string]any {
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, i.Env...)
	return map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"User": i.User, "Entrypoint": i.Entrypoint, "Env": env, "WorkingDir": "/"},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{layerDigest}},
	}
}

// layer is the tar of all files, with the folders they need.
func (i *Image) layer() ([]byte, error) {
	files := map[string][]byte{}
	for name, text := range i.Texts {
		files[clean(name)] = []byte(text)
	}
	for name, source := range i.Files {
		content, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		files[clean(name)] = content
	}
	folders := map[string]int64{}
	for name := range files {
		for parent := path.Dir(name); parent != "."; parent = path.Dir(parent) {
			folders[parent] = 0o755
		}
	}
	for _, name := range i.Folders {
		folders[clean(name)] = 0o1777
		for parent := path.Dir(clean(name)); parent != "."; parent = path.Dir(parent) {
			if _, ok := folders[parent]; !ok {
				folders[parent] = 0o755
			}
		}
	}
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	for _, name := range sorted(folders) {
		header := &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: folders[name]}
		if err := out.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	for _, name := range sorted(files) {
		mode := int64(0o755)
		if _, text := i.Texts["/"+name]; text {
			mode = 0o644
		}
		if err := entry(out, name, mode, files[name]); err != nil {
			return nil, err
		}
	}
	return layer.Bytes(), out.Close()
}

func entry(out *tar.Writer, name string, mode int64, content []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err := out.Write(content)
	return err
}

func clean(name string) string { return strings.TrimPrefix(filepath.Clean(name), "/") }

func sorted[V any](of map[string]V) []string {
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
