// Package conformance owns the verdict on a run of the Gateway API mesh suite: which tests there must be, what each of them
// has to do with a mesh and without one, and what a run really did. The suite's own report leaves seven tests out and
// counts a skipped one as nothing; here a test that didn't run has failed.
package conformance

// Suite are all mesh tests of Gateway API v1.6.3.
var Suite = []string{
	"MeshBasic",
	"MeshConsumerRoute",
	"MeshFrontend",
	"MeshFrontendHostname",
	"MeshGRPCRouteWeight",
	"MeshHTTPRoute303Redirect",
	"MeshHTTPRoute307Redirect",
	"MeshHTTPRoute308Redirect",
	"MeshHTTPRouteBackendRequestHeaderModifier",
	"MeshHTTPRouteMatching",
	"MeshHTTPRouteNamedRule",
	"MeshHTTPRouteQueryParamMatching",
	"MeshHTTPRouteRedirectHostAndStatus",
	"MeshHTTPRouteRedirectPath",
	"MeshHTTPRouteRedirectPort",
	"MeshHTTPRouteRequestHeaderModifier",
	"MeshHTTPRouteRewritePath",
	"MeshHTTPRouteSchemeRedirect",
	"MeshHTTPRouteSimpleSameNamespace",
	"MeshHTTPRouteWeight",
	"MeshPorts",
	"MeshTrafficSplit",
}

// Overlay are our own, on the suite's manifests: e2e/conformance/overlay_test.go.
var Overlay = []string{
	"OverlayRedirect303",
	"OverlayRedirect307",
	"OverlayRedirect308",
	"OverlayRedirectHostAndStatus",
	"OverlayRedirectPath",
	"OverlayRedirectPort",
	"OverlayRedirectScheme",
	"OverlayRewritePath",
}

// needsNoMesh is the one test that any cluster passes.
const needsNoMesh = "MeshBasic"

// Outcome is what became of a test.
type Outcome string

const (
	Pass   Outcome = "pass"
	Fail   Outcome = "fail"
	Skip   Outcome = "skip"
	NotRun Outcome = "not run"
)

// Expected says what every test has to do: all must pass; without a mesh all must fail but the one that needs none.
func Expected(mesh bool) map[string]Outcome {
	expected := map[string]Outcome{}
	for _, name := range append(append([]string{}, Suite...), Overlay...) {
		expected[name] = Pass
		if !mesh && name != needsNoMesh {
			expected[name] = Fail
		}
	}
	return expected
}

// Namespaces are the ones the suite makes. They must be gone before it runs again.
var Namespaces = []string{"gateway-conformance-mesh", "gateway-conformance-mesh-consumer"}
