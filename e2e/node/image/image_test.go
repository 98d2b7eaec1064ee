package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func example(t *testing.T) *Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("content"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &Image{
		Names:   []string{"one:1", "example.org/two:2"},
		Files:   map[string]string{"/usr/local/bin/program": program},
		Texts:   map[string]string{"/etc/passwd": passwd},
		Folders: []string{"/tmp"},
		User:    "1337",
	}
}

// read gives a tar's headers and contents by name.
func read(t *testing.T, content []byte) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string][]byte{}
	for in := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		headers[header.Name] = header
		if contents[header.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLayoutNamesEveryBlobAndEveryName(t *testing.T) {
	var out bytes.Buffer
	if err := example(t).Write(&out); err != nil {
		t.Fatal(err)
	}
	_, contents := read(t, out.Bytes())
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(contents["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, manifest := range index.Manifests {
		names = append(names, manifest.Annotations[nameKey])
	}
	if !slices.Equal(names, []string{"docker.io/library/one:1", "example.org/two:2"}) {
		t.Errorf("%v", names)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	blob := func(d descriptor) []byte { return contents["blobs/sha256/"+d.Digest[len("sha256:"):]] }
	if err := json.Unmarshal(blob(index.Manifests[0]), &manifest); err != nil {
		t.Fatal(err)
	}
	if len(blob(manifest.Config)) == 0 {
		t.Error("no config")
	}
	headers, files := read(t, blob(manifest.Layers[0]))
	if string(files["usr/local/bin/program"]) != "content" || headers["usr/local/bin/program"].Mode != 0o755 {
		t.Errorf("%v", headers)
	}
	if headers["etc/passwd"].Mode != 0o644 || headers["tmp/"].Mode != 0o1777 || headers["usr/local/"] == nil {
		t.Errorf("%v", headers)
	}
}

func TestSameFilesSameBytes(t *testing.T) {
	image := example(t)
	var one, two bytes.Buffer
	if err := errors.Join(image.Write(&one), image.Write(&two)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("they differ")
	}
}

func TestReadsLdd(t *testing.T) {
	found, err := parse("\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n")
	if err != nil || !slices.Equal(found, []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}) {
		t.Errorf("%v %v", found, err)
	}
	if _, err := parse("\tlibmissing.so => not found\n"); err == nil {
		t.Error("a missing library is no error")
	}
}
