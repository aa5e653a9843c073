package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"math/big"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// A CA of a trust domain or of the Web PKI.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(uri string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"go-spiffe"}, SerialNumber: serial.String()},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  uris(uri),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate, key}, err
}

// A leaf that ends at `end`: an X.509-SVID when it has a URI, a certificate of the Web PKI for this
// machine when it has none.
func (a *authority) sign(uri string, end time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(2),
		Subject:               pkix.Name{Organization: []string{"go-spiffe"}},
		NotBefore:             time.Now().Add(-30 * time.Minute),
		NotAfter:              end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  uris(uri),
	}
	if uri == "" {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		template.DNSNames = []string{"localhost"}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func uris(uri string) []*url.URL {
	if uri == "" {
		return nil
	}
	parsed, err := url.Parse(uri)
	if err != nil {
		panic(err)
	}
	return []*url.URL{parsed}
}

func writePEM(path string, certificates ...[]byte) error {
	var text []byte
	for _, der := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return os.WriteFile(path, text, 0o600)
}

// Judges a chain in PEM by a bundle, as go-spiffe does.
func verify(arguments []string) error {
	flags := flag.NewFlagSet("verify", flag.ExitOnError)
	domain := flags.String("domain", "", "the trust domain of the bundle")
	file := flags.String("bundle", "", "the file of the bundle")
	chain := flags.String("chain", "", "the file of the chain, leaf first")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	of, err := spiffeid.TrustDomainFromString(*domain)
	if err != nil {
		return err
	}
	bundle, err := spiffebundle.Load(of, *file)
	if err != nil {
		return err
	}
	rest, err := os.ReadFile(*chain)
	if err != nil {
		return err
	}
	var certificates [][]byte
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		certificates = append(certificates, block.Bytes)
	}
	id, _, err := x509svid.ParseAndVerify(certificates, bundle)
	if err != nil {
		return err
	}
	say(map[string]any{"id": id.String()})
	return nil
}

// Makes a root of a trust domain and an X.509-SVID of it, and says both.
func mint(arguments []string) error {
	flags := flag.NewFlagSet("mint", flag.ExitOnError)
	id := flags.String("id", "", "who")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	who, err := spiffeid.FromString(*id)
	if err != nil {
		return err
	}
	root, err := newAuthority(who.TrustDomain().IDString())
	if err != nil {
		return err
	}
	leaf, err := root.sign(*id, time.Now().Add(time.Hour))
	if err != nil {
		return err
	}
	say(map[string]any{"root": root.certificate.Raw, "chain": leaf.Certificate})
	return nil
}
