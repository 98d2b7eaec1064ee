package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestMesh(t *testing.T) { conformance.RunConformanceWithOptions(t, conformance.DefaultOptions(t)) }
