package main

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// table is what is written: a certificate a line, with its verdict.
type table struct {
	root    *issuer
	written strings.Builder
}

func (to *table) text(text string) { to.written.WriteString(text) }

// row has go-spiffe's verdict: the identity, or refused.
func (to *table) row(label string, chain ...[]byte) {
	var words []string
	for _, certificate := range chain {
		words = append(words, base64.StdEncoding.EncodeToString(certificate))
	}
	bundle := x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("cluster.local"), []*x509.Certificate{to.root.certificate})
	verdict := "refused"
	if id, _, err := x509svid.ParseAndVerify(chain, bundle); err == nil {
		verdict = id.String()
	}
	fmt.Fprintf(&to.written, "%s\t%s\t%s\n", label, verdict, strings.Join(words, " "))
}
