// Node brings up a real Kubernetes cluster of two nodes on one machine, without a container engine or a registry, and puts
// Outrigger's images into it. It is the ground under the end-to-end tests; `./dev cluster` starts it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"outrigger.dev/e2e/node/sandbox"
)

const usage = `usage: node COMMAND [FLAGS] [ARGUMENTS]

  up [--image NAME=PATH]...  bring up a cluster (nothing to do if it is up), and import images made of programs
  up --kubeconfig FILE       use a cluster that is there already; nothing is started or imported
  down                       end every process of the cluster and remove all it left
  image NAME=PATH...         import images into every node of the running cluster
  gateway-api                apply the Gateway API's resource definitions, of the version the conformance suite demands
  conformance [--mode sidecar|shared|none] [--sidecars-down] [--report DIR]
                             run the Gateway API mesh suite and judge it: each of its 22 tests by name, and our own;
                             with --mode none all of them must fail but MeshBasic
  env                        print lines for a shell: the paths, with kubectl, helm and enter among the programs
  run COMMAND...             run a command in the cluster's network, with its kubeconfig
  node kill|start NAME       end a node as a power cut would; bring it back with its old disk
  process stop|start|signal MACHINE NAME [NUMBER]
                             the programs of a machine (control, node-1, node-2): kube-apiserver, etcd, kubelet ...
  build [NAME...]            build programs into the cache (all, when none is named)
  path NAME                  print where a built program lies

Every command takes --dir DIR: the cluster's folder. Each folder is a cluster of its own.
An image's PATH is a folder of programs or a single one; outrigger, outrigger-controller and outrigger-proxy are taken
together from a folder that has them, with the libraries they need and nft.
`

func main() {
	if len(os.Args) > 2 && os.Args[1] == sandbox.InitCommand {
		fail(sandbox.Init(os.Args[2]))
	}
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	command, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := command(os.Args[2:]); err != nil {
		fail(err)
	}
}

var commands = map[string]func([]string) error{
	"up":          up,
	"down":        down,
	"image":       importImages,
	"gateway-api": gatewayAPI,
	"conformance": runConformance,
	"env":         env,
	"run":         run,
	"node":        node,
	"process":     process,
	"build":       build,
	"path":        path,
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "==> "+format+"\n", args...)
}

// flags are a command's own, with --dir for all.
func flags(name string) (*flag.FlagSet, *string) {
	set := flag.NewFlagSet(name, flag.ExitOnError)
	set.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	return set, set.String("dir", "", "the cluster's folder")
}

// folder is the cluster's: absolute, since machines see it from elsewhere.
func folder(dir string) (string, error) {
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "outrigger", "e2e", "cluster")
	}
	return filepath.Abs(dir)
}

// sources finds the repository's e2e folder: from where the command was called, or from where the program lies.
func sources() (string, error) {
	var starts []string
	if here, err := os.Getwd(); err == nil {
		starts = append(starts, here)
	}
	if self, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(self))
	}
	for _, start := range starts {
		for at := start; ; at = filepath.Dir(at) {
			if _, err := os.Stat(filepath.Join(at, "e2e", "node", "go.mod")); err == nil {
				return filepath.Join(at, "e2e"), nil
			}
			if at == filepath.Dir(at) {
				break
			}
		}
	}
	return "", errors.New("not in the repository: e2e/node is not to be found from here upwards")
}

// list collects a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }
