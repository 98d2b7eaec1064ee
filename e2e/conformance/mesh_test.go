// Package conformance runs the Gateway API conformance suite against Outrigger: every mesh test there is, the seven that
// belong to no profile among them, then cases of our own for what the suite doesn't look at (overlay_test.go).
//
// It only runs them. Who demands that each of the 22 ran and passed, or failed where there is no mesh, is `node conformance`.
package conformance

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	meshtests "sigs.k8s.io/gateway-api/conformance/tests/mesh"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

var (
	mode     = flag.String("outrigger-mode", "sidecar", "value of the label outrigger.dev/mode; none runs the control without a mesh")
	patience = flag.Duration("outrigger-patience", 3*time.Second, "how long a case has in the control run to give 20 right answers in a row; with a mesh it has 30 s")
	report   = flag.String("outrigger-report", "", "file for the suite's report")
	version  = flag.String("outrigger-version", "development", "version of Outrigger for the report")
)

// inARow is the suite's RequiredConsecutiveSuccesses. With its default of 3, a route that is ignored passes by luck.
const inARow = 20

// meshFeatures are all that mesh tests ask for: without the last five, seven tests would be skipped without a word.
var meshFeatures = []features.FeatureName{
	features.SupportMesh,
	features.SupportHTTPRoute,
	features.SupportGRPCRoute,
	features.SupportMeshClusterIPMatching,
	features.SupportMeshConsumerRoute,
	features.SupportMeshHTTPRouteRewritePath,
	features.SupportMeshHTTPRouteSchemeRedirect,
	features.SupportMeshHTTPRouteRedirectPort,
	features.SupportMeshHTTPRouteRedirectPath,
	features.SupportMeshHTTPRouteBackendRequestHeaderModification,
	features.SupportMeshHTTPRouteQueryParamMatching,
	features.SupportMeshHTTPRouteNamedRouteRule,
	features.SupportHTTPRouteResponseHeaderModification,
	features.SupportHTTPRouteParentRefPort,
	features.SupportHTTPRoute303RedirectStatusCode,
	features.SupportHTTPRoute307RedirectStatusCode,
	features.SupportHTTPRoute308RedirectStatusCode,
}

func TestMesh(t *testing.T) {
	s, err := suite.NewConformanceTestSuite(options(t))
	require.NoError(t, err)
	s.Setup(t, tests.ConformanceTests)
	// Whoever wants to break something before the tests begin waits for this line.
	fmt.Println("outrigger: set up")
	if control() {
		// What needs no mesh must pass, so it gets the time it needs; the rest must fail, and would use all it gets.
		t.Run("Suite", func(t *testing.T) { require.NoError(t, s.Run(t, []suite.ConformanceTest{meshtests.MeshBasic})) })
		s.TimeoutConfig.MaxTimeToConsistency = *patience
		s.SkipTests.Insert(meshtests.MeshBasic.ShortName)
	}
	t.Run("Suite", func(t *testing.T) { require.NoError(t, s.Run(t, tests.ConformanceTests)) })
	writeReport(t, s)
	t.Run("Overlay", func(t *testing.T) { require.NoError(t, s.Run(t, overlay)) })
}

// control says whether this is the run without a mesh, in which everything but MeshBasic must fail.
func control() bool { return *mode == "none" }

func options(t *testing.T) suite.ConformanceOptions {
	o := conformance.DefaultOptions(t)
	o.GatewayClassName = ""
	o.ConformanceProfiles = []suite.ConformanceProfileName{
		suite.MeshHTTPConformanceProfileName,
		suite.MeshGRPCConformanceProfileName,
	}
	o.SupportedFeatures = meshFeatures
	o.DisableParallelTests = true
	o.TimeoutConfig.RequiredConsecutiveSuccesses = inARow
	if !control() {
		o.NamespaceLabels = map[string]string{"outrigger.dev/mode": *mode}
	}
	o.Implementation = confv1.Implementation{
		Organization: "outrigger",
		Project:      "outrigger",
		URL:          "https://outrigger.dev",
		Version:      *version,
		Contact:      []string{"@outrigger/maintainers"},
	}
	return o
}

// writeReport writes what the suite says of itself: it covers the profiles' tests only, so it is a record, not the verdict.
func writeReport(t *testing.T, s *suite.ConformanceTestSuite) {
	if *report == "" {
		return
	}
	made, err := s.Report()
	require.NoError(t, err)
	content, err := yaml.Marshal(made)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(*report, content, 0o644))
}
