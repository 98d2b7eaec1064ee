package conformance

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/gateway-api/conformance/utils/echo"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/conformance/utils/tlog"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// seen is what one request must lead to, in the words the suite's own check leaves out.
type seen struct {
	path   string
	status int
	// url is the path (and query) the backend must have seen.
	url string
	// location is where a redirect must point.
	location string
}

// overlay are the suite's own manifests, with the suite's own client, looked at more closely.
var overlay = []suite.ConformanceTest{
	overlayTest("OverlayRewritePath", "httproute-rewrite-path", []seen{
		{path: "/prefix/one/two", url: "/one/two"},
		{path: "/prefix/one", url: "/one"},
		{path: "/prefix/one/two?query=kept", url: "/one/two?query=kept"},
		{path: "/strip-prefix/three", url: "/three"},
		{path: "/strip-prefix", url: "/"},
		{path: "/strip-prefix/", url: "/"},
		{path: "/full/one/two", url: "/one"},
		{path: "/full/one?query=kept", url: "/one?query=kept"},
		{path: "/full/rewrite-path-and-modify-headers/test", url: "/test"},
		{path: "/prefix/rewrite-path-and-modify-headers/one", url: "/prefix/one"},
	}),
	overlayTest("OverlayRedirectPath", "httproute-redirect-path", []seen{
		{path: "/original-prefix/lemon", status: 302, location: "http://echo/replacement-prefix/lemon"},
		{path: "/original-prefix/lemon?query=kept", status: 302, location: "http://echo/replacement-prefix/lemon?query=kept"},
		{path: "/original-prefix", status: 302, location: "http://echo/replacement-prefix"},
		{path: "/full/path/original", status: 302, location: "http://echo/full-path-replacement"},
		{path: "/path-and-host", status: 302, location: "http://example.org/replacement-prefix"},
		{path: "/path-and-host/more", status: 302, location: "http://example.org/replacement-prefix/more"},
		{path: "/path-and-status", status: 301, location: "http://echo/replacement-prefix"},
		{path: "/full-path-and-host", status: 302, location: "http://example.org/replacement-full"},
		{path: "/full-path-and-status", status: 301, location: "http://echo/replacement-full"},
	}),
	overlayTest("OverlayRedirectPort", "httproute-redirect-port", []seen{
		{path: "/port", status: 302, location: "http://echo:8083/port"},
		{path: "/port-and-host", status: 302, location: "http://example.org:8083/port-and-host"},
		{path: "/port-and-status", status: 301, location: "http://echo:8083/port-and-status"},
		{path: "/port-and-host-and-status", status: 302, location: "http://example.org:8083/port-and-host-and-status"},
	}),
	overlayTest("OverlayRedirectScheme", "httproute-redirect-scheme", []seen{
		{path: "/scheme", status: 302, location: "https://echo/scheme"},
		{path: "/scheme-and-host", status: 302, location: "https://example.org/scheme-and-host"},
		{path: "/scheme-and-status", status: 301, location: "https://echo/scheme-and-status"},
		{path: "/scheme-and-host-and-status", status: 302, location: "https://example.org/scheme-and-host-and-status"},
	}),
	overlayTest("OverlayRedirectHostAndStatus", "httproute-redirect-host-and-status", []seen{
		{path: "/hostname-redirect", status: 302, location: "http://example.org/hostname-redirect"},
		{path: "/host-and-status", status: 301, location: "http://example.org/host-and-status"},
	}),
	overlayTest("OverlayRedirect303", "httproute-303-redirect", []seen{
		{path: "/redirect", status: 303, location: "http://echo/redirect"},
	}),
	overlayTest("OverlayRedirect307", "httproute-307-redirect", []seen{
		{path: "/temporary", status: 307, location: "http://echo/temporary"},
	}),
	overlayTest("OverlayRedirect308", "httproute-308-redirect", []seen{
		{path: "/permanent", status: 308, location: "http://echo/permanent"},
	}),
}

func overlayTest(name, manifest string, cases []seen) suite.ConformanceTest {
	return suite.ConformanceTest{
		ShortName:   name,
		Description: "What the suite's test of the same manifest doesn't look at",
		Features:    []features.FeatureName{features.SupportMesh, features.SupportHTTPRoute},
		Manifests:   []string{"tests/mesh/" + manifest + ".yaml"},
		Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
			client := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
			for _, c := range cases {
				passed := t.Run(strings.TrimPrefix(c.path, "/"), func(t *testing.T) { c.await(t, &client, s) })
				// One failure is what the control run asks for.
				if !passed && control() {
					return
				}
			}
		},
	}
}

// await asks until the answer is right 20 times in a row, as the suite does.
func (c seen) await(t *testing.T, client *echo.MeshPod, s *suite.ConformanceTestSuite) {
	expected := http.ExpectedResponse{
		Request:   http.Request{Host: "echo", Path: c.path, UnfollowRedirect: true},
		Namespace: suite.MeshNamespace,
	}
	if c.status != 0 {
		expected.Response.StatusCodes = []int{c.status}
	} else {
		expected.Backend = "echo-v1"
	}
	timeouts := s.TimeoutConfig
	http.AwaitConvergence(t, timeouts.RequiredConsecutiveSuccesses, timeouts.MaxTimeToConsistency, func(time.Duration) bool {
		_, response, err := client.CaptureRequestResponseAndCompare(t, expected)
		if err == nil {
			err = c.check(response)
		}
		if err != nil {
			tlog.Logf(t, "not yet: %v", err)
		}
		return err == nil
	})
}

func (c seen) check(response echo.Response) error {
	if c.url != "" && response.URL != c.url {
		return fmt.Errorf("the backend saw %q, wanted %q", response.URL, c.url)
	}
	if c.location == "" {
		return nil
	}
	got, err := absolute(c.path, response.ResponseHeaders.Get("Location"))
	if err != nil {
		return err
	}
	if got != c.location {
		return fmt.Errorf("redirected to %q, wanted %q", got, c.location)
	}
	return nil
}

// absolute spells a Location out: it may be relative, and may name its scheme's own port.
func absolute(path, location string) (string, error) {
	if location == "" {
		return "", fmt.Errorf("no Location")
	}
	base, err := url.Parse("http://echo" + path)
	if err != nil {
		return "", err
	}
	target, err := base.Parse(location)
	if err != nil {
		return "", err
	}
	if port := target.Port(); (target.Scheme == "http" && port == "80") || (target.Scheme == "https" && port == "443") {
		target.Host = target.Hostname()
	}
	return target.String(), nil
}
