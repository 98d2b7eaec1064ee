// Package programs owns what the harness builds from Go modules: which programs, at which version, and the cache that
// makes a second run build nothing. It knows nothing of clusters.
package programs

import "strings"

// Versions that others must agree with: image names, manifests, the CRDs that are applied.
const (
	KubernetesVersion = "v1.34.4"
	CoreDNSVersion    = "v1.12.4"
	HelmVersion       = "v3.19.0"
)

// Program is one file (or two) built from one Go module of this repository.
type Program struct {
	Name string
	// Module is the module's folder, from the e2e folder on.
	Module string
	// Packages are what is built; their last path elements name the files, unless Rename says otherwise.
	Packages []string
	// Test builds the package's tests instead (go test -c).
	Test bool
	// Set are -X flags: version strings the program reports.
	Set []string
}

// All is every program of the harness, in the order they are built: what a cluster needs first.
var All = []Program{
	{Name: "kubernetes", Module: "node/kubernetes", Packages: []string{"."}, Set: kubernetesVersion("k8s.io/component-base/version")},
	{Name: "pause", Module: "node", Packages: []string{"./pause"}},
	{Name: "coredns", Module: "node/tools/coredns", Packages: []string{"github.com/coredns/coredns"}},
	{Name: "echo", Module: "node/tools/echo", Packages: []string{
		"istio.io/istio/pkg/test/echo/cmd/client",
		"istio.io/istio/pkg/test/echo/cmd/server",
	}},
	{Name: "podinfo", Module: "node/tools/podinfo", Packages: []string{"github.com/stefanprodan/podinfo/cmd/podinfo"}},
	{Name: "helm", Module: "node/tools/helm", Packages: []string{"helm.sh/helm/v3/cmd/helm"}, Set: helmVersion()},
	{Name: "echo-basic", Module: "conformance", Packages: []string{"sigs.k8s.io/gateway-api/conformance/echo-basic"}},
	{Name: "conformance", Module: "conformance", Packages: []string{"."}, Test: true},
}

// Find gives the program of that name.
func Find(name string) (Program, bool) {
	for _, p := range All {
		if p.Name == name {
			return p, true
		}
	}
	return Program{}, false
}

// kubernetesVersion sets what a component reports: without it the answer is v0.0.0-master, which clients may refuse.
func kubernetesVersion(pkg string) []string {
	parts := strings.Split(strings.TrimPrefix(KubernetesVersion, "v"), ".")
	return []string{
		pkg + ".gitVersion=" + KubernetesVersion,
		pkg + ".gitMajor=" + parts[0],
		pkg + ".gitMinor=" + parts[1],
	}
}

// helmVersion sets helm's own version, and the Kubernetes version `helm template` and `helm lint` assume.
func helmVersion() []string {
	parts := strings.Split(strings.TrimPrefix(KubernetesVersion, "v"), ".")
	set := []string{"helm.sh/helm/v3/internal/version.version=" + HelmVersion}
	for _, pkg := range []string{"helm.sh/helm/v3/pkg/lint/rules", "helm.sh/helm/v3/pkg/chartutil"} {
		set = append(set, pkg+".k8sVersionMajor="+parts[0], pkg+".k8sVersionMinor="+parts[1])
	}
	return set
}
