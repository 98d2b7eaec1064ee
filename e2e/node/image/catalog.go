package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Pause is the image of every pod's sandbox.
const Pause = "registry.k8s.io/pause:outrigger-e2e"

// CoreDNS is the cluster's DNS server; the conformance suite's manifests name an older one, which gets the same files.
const CoreDNS = "registry.k8s.io/coredns/coredns:v1.12.4"

// The conformance suite's images, by the names in its manifests (v1.6.3).
const gatewayAPI = "registry.k8s.io/gateway-api/"

// EchoAdvanced is the suite's echo server and client for meshes: Istio's test application.
const EchoAdvanced = gatewayAPI + "echo-advanced:v1.5.1"

// Podinfo is the app that has to survive everything: github.com/stefanprodan/podinfo, a front and a backend, HTTP and gRPC.
const Podinfo = "podinfo:e2e"

// Programs gives the folder of a built program by its name.
type Programs func(name string) (string, error)

// Catalog gives the images that every cluster gets.
func Catalog(programs Programs) ([]*Image, error) {
	certificate, key, err := selfSigned("echo")
	if err != nil {
		return nil, err
	}
	folders := map[string]string{}
	for _, name := range []string{"pause", "coredns", "echo", "echo-basic", "podinfo"} {
		folder, err := programs(name)
		if err != nil {
			return nil, err
		}
		folders[name] = folder
	}
	return []*Image{
		{
			Names:      []string{Pause},
			Files:      map[string]string{"/pause": filepath.Join(folders["pause"], "pause")},
			User:       "65535:65535",
			Entrypoint: []string{"/pause"},
		},
		{
			Names:      []string{CoreDNS, "registry.k8s.io/coredns/coredns:v1.12.2"},
			Files:      map[string]string{"/coredns": filepath.Join(folders["coredns"], "coredns")},
			Folders:    []string{"/tmp"},
			User:       "65532:65532",
			Entrypoint: []string{"/coredns"},
		},
		{
			Names: []string{EchoAdvanced},
			Files: map[string]string{
				"/usr/local/bin/client": filepath.Join(folders["echo"], "client"),
				"/usr/local/bin/server": filepath.Join(folders["echo"], "server"),
			},
			Texts:      map[string]string{"/cert.crt": certificate, "/cert.key": key},
			Folders:    []string{"/tmp"},
			User:       "1338",
			Entrypoint: []string{"/usr/local/bin/server"},
		},
		{
			Names:      []string{gatewayAPI + "echo-basic:v1.5.1", gatewayAPI + "echo-basic:v1.6.0-dev.2", gatewayAPI + "echo-basic:v1.6.0-dev.3"},
			Files:      map[string]string{"/echo-basic": filepath.Join(folders["echo-basic"], "echo-basic")},
			User:       "65532:65532",
			Entrypoint: []string{"/echo-basic"},
		},
		{
			Names:      []string{Podinfo},
			Files:      map[string]string{"/podinfo": filepath.Join(folders["podinfo"], "podinfo")},
			Folders:    []string{"/data", "/tmp"},
			User:       "1338:1338",
			Entrypoint: []string{"/podinfo"},
		},
	}, nil
}

// passwd names the one user Outrigger's containers run as.
const passwd = "root:x:0:0:root:/root:/sbin/nologin\noutrigger:x:1337:1337:outrigger:/:/sbin/nologin\n"

// FromBinaries makes an image of every program in a folder, in /usr/local/bin, with the libraries they need. With
// outrigger-proxy among them comes nft, which installs the redirection. An entrypoint is set when there is one program only.
// An app must not be the proxies' user: what that user sends isn't redirected, so such an app would pass by the mesh.
func FromBinaries(name, folder string) (*Image, error) {
	programs, err := executables(folder)
	if err != nil {
		return nil, err
	}
	result := &Image{
		Names:   []string{name},
		Files:   map[string]string{},
		Texts:   map[string]string{"/etc/passwd": passwd, "/etc/group": "root:x:0:\noutrigger:x:1337:\n"},
		Folders: []string{"/tmp"},
		User:    "1338:1338",
	}
	for _, program := range programs {
		if err := result.addProgram("/usr/local/bin/"+filepath.Base(program), program); err != nil {
			return nil, err
		}
	}
	if len(programs) == 1 {
		result.Entrypoint = []string{"/usr/local/bin/" + filepath.Base(programs[0])}
	}
	if _, ok := result.Files["/usr/local/bin/outrigger-proxy"]; ok {
		result.User = "1337:1337"
		nft, err := exec.LookPath("nft")
		if err != nil {
			return nil, fmt.Errorf("nft (package nftables) goes into the image and is missing: %w", err)
		}
		if err := result.addProgram("/usr/sbin/nft", nft); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func (i *Image) addProgram(at, program string) error {
	i.Files[at] = program
	libraries, err := Libraries(program)
	for _, library := range libraries {
		i.Files[library] = library
	}
	return err
}

// meshPrograms are what goes into Outrigger's image when a folder holds more than that, as cargo's does.
var meshPrograms = []string{"outrigger", "outrigger-controller", "outrigger-proxy"}

// executables gives one program when the path names a file; of a folder, Outrigger's three, or all there are.
func executables(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var ours, all []string
	for _, name := range meshPrograms {
		if isExecutable(filepath.Join(path, name)) {
			ours = append(ours, filepath.Join(path, name))
		}
	}
	if len(ours) == len(meshPrograms) {
		return ours, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if file := filepath.Join(path, entry.Name()); isExecutable(file) && !strings.Contains(entry.Name(), ".") {
			all = append(all, file)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s holds no program", path)
	}
	return all, nil
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
