// Svids writes certificates of every kind with what go-spiffe, the SPIFFE project's own library, says of each: svids FILE.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"iter"
	"log"
	"maps"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"
)

const front = "spiffe://cluster.local/ns/shop/sa/front"

// kind of a general name: RFC 5280 section 4.2.1.6.
const (
	email = 1
	dns   = 2
	uri   = 6
	ip    = 7
)

type issuer struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// change makes a certificate of one kind of the plain one.
type change func(*x509.Certificate)

func check[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func names(critical bool, list ...asn1.RawValue) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: critical, Value: check(asn1.Marshal(list))}
}

func name(kind int, text string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: kind, Bytes: []byte(text)}
}

func named(list ...asn1.RawValue) change {
	return func(to *x509.Certificate) { to.ExtraExtensions = []pkix.Extension{names(false, list...)} }
}

func id(text string) change { return named(name(uri, text)) }

func (by *issuer) sign(key crypto.Signer, changes ...change) []byte {
	plain := x509.Certificate{
		SerialNumber:          check(rand.Int(rand.Reader, big.NewInt(1<<62))),
		Subject:               pkix.Name{CommonName: "svid"},
		NotBefore:             time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, change := range changes {
		change(&plain)
	}
	above, signer := by.certificate, by.key
	if above == nil {
		above, signer = &plain, key
	}
	return check(x509.CreateCertificate(rand.Reader, &plain, above, key.Public(), signer))
}

func authority(to *x509.Certificate) {
	to.Subject = pkix.Name{CommonName: fmt.Sprint("authority ", to.SerialNumber)}
	to.IsCA, to.KeyUsage, to.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
}

func (by *issuer) below(changes ...change) *issuer {
	key := newKey()
	return &issuer{check(x509.ParseCertificate(by.sign(key, append([]change{authority}, changes...)...))), key}
}

// sorted goes through a map in the order of its keys.
func sorted[T any](all map[string]T) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if !yield(key, all[key]) {
				return
			}
		}
	}
}

func newKey() crypto.Signer { return check(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func main() {
	root, other := (&issuer{}).below(), (&issuer{}).below()
	out := &table{root: root}
	out.text("# Certificates, and what go-spiffe says of them. Written by `./dev judges`.\n# name\tgo-spiffe\tchain, by base64\n")
	out.row("root", root.certificate.Raw)
	ids(out, root)
	leaves(out, root, other)
	chains(out, root)
	if err := os.WriteFile(os.Args[1], []byte(out.written.String()), 0o644); err != nil {
		log.Fatal(err)
	}
}

// ids are names of every kind, in certificates that are good otherwise.
func ids(out *table, root *issuer) {
	for _, text := range []string{
		front, "spiffe://cluster.local", "spiffe://cluster.local/", "spiffe://cluster.local/ns/shop/sa/front/",
		"spiffe://cluster.local//sa", "spiffe://cluster.local/./sa", "spiffe://cluster.local/ns/../sa", "spiffe://cluster.local/...",
		"SPIFFE://cluster.local/sa", "spiffe://Cluster.local/sa", "spiffe://cluster.local/SA", "https://cluster.local/sa",
		"spiffe://cluster.local:443/sa", "spiffe://x@cluster.local/sa", "spiffe://cluster.local/sa?x", "spiffe://cluster.local/sa#x",
		"spiffe://cluster.local/%73a", "spiffe://cluster.local/a:b", "spiffe://cluster.local/a~b", "spiffe://cluster.local/a_b-c.d",
		"spiffe://cluster.local/*", "spiffe://*/sa", "spiffe:///sa", "spiffe:cluster.local/sa", "spiffe://cluster.local\x00/sa",
		"spiffe://cluster.local/s\xc3\xa4", "spiffe://cluster.local/s a", "spiffe://other.example/sa", "spiffe://cluster.local.example/sa",
		"", " " + front, front + " ", "spiffe://cluster.local/" + strings.Repeat("a", 2025), "spiffe://cluster.local/" + strings.Repeat("a", 2026),
	} {
		label := text
		if len(label) > 100 {
			label = fmt.Sprintf("%d bytes", len(text))
		}
		out.row("id "+fmt.Sprintf("%q", label), root.sign(newKey(), id(text)))
	}
	for label, list := range sorted(map[string][]asn1.RawValue{
		"the same twice":  {name(uri, front), name(uri, front)},
		"two ids":         {name(uri, front), name(uri, front+"2")},
		"another URI too": {name(uri, front), name(uri, "https://cluster.local/")},
		"a DNS name":      {name(dns, "front.shop.svc")},
		"a DNS name too":  {name(uri, front), name(dns, "front.shop.svc")},
		"an address too":  {name(uri, front), name(ip, "\x7f\x00\x00\x01")},
		"a mailbox too":   {name(email, "a@b.example"), name(uri, front)},
		"no name at all":  {},
	}) {
		out.row(label, root.sign(newKey(), named(list...)))
	}
	out.row("no list of names", root.sign(newKey(), func(to *x509.Certificate) { to.Subject.CommonName = front }))
}

// leaves have the right name, and are wrong otherwise, or unusual.
func leaves(out *table, root, other *issuer) {
	for label, change := range sorted(map[string]change{
		"an authority":           func(to *x509.Certificate) { to.IsCA = true },
		"may sign certificates":  func(to *x509.Certificate) { to.KeyUsage |= x509.KeyUsageCertSign },
		"may sign lists":         func(to *x509.Certificate) { to.KeyUsage |= x509.KeyUsageCRLSign },
		"may encipher keys only": func(to *x509.Certificate) { to.KeyUsage = x509.KeyUsageKeyEncipherment },
		"no usage":               func(to *x509.Certificate) { to.KeyUsage = 0 },
		"no extended usage":      func(to *x509.Certificate) { to.ExtKeyUsage = nil },
		"servers only":           func(to *x509.Certificate) { to.ExtKeyUsage = to.ExtKeyUsage[:1] },
		"clients only":           func(to *x509.Certificate) { to.ExtKeyUsage = to.ExtKeyUsage[1:] },
		"signs code":             func(to *x509.Certificate) { to.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
		"no basic constraints":   func(to *x509.Certificate) { to.BasicConstraintsValid = false },
		"has ended":              func(to *x509.Certificate) { to.NotAfter = to.NotBefore.AddDate(1, 0, 0) },
		"hasn't begun":           func(to *x509.Certificate) { to.NotBefore = to.NotAfter.AddDate(-1, 0, 0) },
		"critical names":         func(to *x509.Certificate) { to.ExtraExtensions = []pkix.Extension{names(true, name(uri, front))} },
		"no subject":             func(to *x509.Certificate) { to.Subject = pkix.Name{} },
		"an unknown extension":   unknown(false),
		"unknown and critical":   unknown(true),
		"names in two extensions": func(to *x509.Certificate) {
			to.ExtraExtensions = append(to.ExtraExtensions, names(false, name(uri, front+"2")))
		},
	}) {
		out.row(label, root.sign(newKey(), id(front), change))
	}
	out.row("by another root", other.sign(newKey(), id(front)))
	out.row("by itself", (&issuer{}).sign(newKey(), id(front)))
	out.row("P-384", root.sign(check(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), id(front)))
	out.row("RSA of 2048 bits", root.sign(check(rsa.GenerateKey(rand.Reader, 2048)), id(front)))
}

func unknown(critical bool) change {
	return func(to *x509.Certificate) {
		to.ExtraExtensions = append(to.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Critical: critical, Value: []byte{5, 0}})
	}
}

// chains have a good leaf, by authorities below the root.
func chains(out *table, root *issuer) {
	for label, changes := range sorted(map[string][]change{
		"an intermediate":                        {},
		"an intermediate with the domain's id":   {id("spiffe://cluster.local")},
		"an intermediate with an id with a path": {id("spiffe://cluster.local/authority")},
		"an intermediate of another domain":      {id("spiffe://other.example")},
		"an intermediate that is none":           {func(to *x509.Certificate) { to.IsCA = false }},
		"an intermediate that mayn't sign":       {func(to *x509.Certificate) { to.KeyUsage = x509.KeyUsageDigitalSignature }},
		"an intermediate that has ended":         {func(to *x509.Certificate) { to.NotAfter = to.NotBefore.AddDate(1, 0, 0) }},
		"an intermediate for servers":            {func(to *x509.Certificate) { to.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }},
		"an intermediate for both": {func(to *x509.Certificate) {
			to.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}},
		"an intermediate with a critical extension": {unknown(true)},
		"an intermediate for this domain": {func(to *x509.Certificate) {
			to.PermittedURIDomains, to.PermittedDNSDomainsCritical = []string{"cluster.local"}, true
		}},
		"an intermediate for another domain": {func(to *x509.Certificate) {
			to.PermittedURIDomains, to.PermittedDNSDomainsCritical = []string{"other.example"}, true
		}},
		"an intermediate but for this domain": {func(to *x509.Certificate) {
			to.ExcludedURIDomains, to.PermittedDNSDomainsCritical = []string{"cluster.local"}, true
		}},
		"an intermediate for DNS names": {func(to *x509.Certificate) {
			to.PermittedDNSDomains, to.PermittedDNSDomainsCritical = []string{"example"}, true
		}},
	}) {
		middle := root.below(changes...)
		out.row(label, middle.sign(newKey(), id(front)), middle.certificate.Raw)
	}
	last := root.below(func(to *x509.Certificate) { to.MaxPathLenZero = true })
	deeper := last.below()
	out.row("deeper than allowed", deeper.sign(newKey(), id(front)), deeper.certificate.Raw, last.certificate.Raw)
	out.row("as deep as allowed", last.sign(newKey(), id(front)), last.certificate.Raw)
	upper := root.below()
	lower := upper.below()
	out.row("two intermediates", lower.sign(newKey(), id(front)), lower.certificate.Raw, upper.certificate.Raw)
	out.row("two intermediates, the other way", lower.sign(newKey(), id(front)), upper.certificate.Raw, lower.certificate.Raw)
	out.row("without its intermediate", lower.sign(newKey(), id(front)), lower.certificate.Raw)
	key := newKey()
	leaf := &issuer{check(x509.ParseCertificate(root.sign(key, id(front)))), key}
	out.row("by a leaf", leaf.sign(newKey(), id(front+"2")), leaf.certificate.Raw)
	out.row("the root too", upper.sign(newKey(), id(front)), upper.certificate.Raw, root.certificate.Raw)
}
