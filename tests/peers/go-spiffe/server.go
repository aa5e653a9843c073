package main

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Longer than any bundle may be.
const tooMuch = 300 << 10

// Serves the bundle of a trust domain at /bundle until its standard input ends, and says where. Each
// line of input is a command: `publish` puts a new root into the bundle, `use` signs the endpoint's
// SVID by the newest root, `sequence N` numbers the bundle.
func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	id := flags.String("id", "", "the ID of the endpoint, whose trust domain is the bundle's")
	web := flags.String("web", "", "https_web: the file to write the root of its certificate to")
	from := flags.String("from", "", "sign the SVID by a root of this other trust domain's name, not by the bundle's")
	expired := flags.Bool("expired", false, "the certificate ended a minute ago")
	tls12 := flags.Bool("tls12", false, "no TLS 1.3")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	server, err := spiffeid.FromString(*id)
	if err != nil {
		return err
	}
	bundle := spiffebundle.New(server.TrustDomain())
	bundle.SetRefreshHint(10 * time.Second)
	end := time.Now().Add(time.Hour)
	if *expired {
		end = time.Now().Add(-time.Minute)
	}
	svids := &current{}
	var newest *authority
	publish := func() (err error) {
		if newest, err = newAuthority(server.TrustDomain().IDString()); err != nil {
			return err
		}
		bundle.AddX509Authority(newest.certificate)
		return bundle.AddJWTAuthority(fmt.Sprint("key", len(bundle.X509Authorities())), newest.key.Public())
	}
	use := func() error {
		signer := newest
		if *from != "" {
			var err error
			if signer, err = newAuthority("spiffe://" + *from); err != nil {
				return err
			}
		}
		leaf, err := signer.sign(*id, end)
		if err != nil {
			return err
		}
		return svids.set(leaf)
	}
	if err := publish(); err != nil {
		return err
	}
	if err := use(); err != nil {
		return err
	}
	config := tlsconfig.TLSServerConfig(svids)
	if *web != "" {
		root, err := newAuthority("")
		if err != nil {
			return err
		}
		leaf, err := root.sign("", end)
		if err != nil {
			return err
		}
		if err := writePEM(*web, root.certificate.Raw); err != nil {
			return err
		}
		config = &tls.Config{Certificates: []tls.Certificate{leaf}, MinVersion: tls.VersionTLS12}
	}
	if *tls12 {
		config.MaxVersion = tls.VersionTLS12
	}
	handler, err := federation.NewHandler(server.TrustDomain(), bundle)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	serving := http.Server{
		Handler:           paths(handler, bundle),
		TLSConfig:         config,
		ReadHeaderTimeout: 10 * time.Second,
		// That handshakes fail is what the tests are about.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	failed := make(chan error, 1)
	go func() { failed <- serving.ServeTLS(listener, "", "") }()
	text, err := bundle.Marshal()
	if err != nil {
		return err
	}
	say(map[string]any{"address": listener.Addr().String(), "bundle": string(text)})
	go func() {
		failed <- obey(map[string]func() error{"publish": publish, "use": use}, bundle)
	}()
	return <-failed
}

func obey(commands map[string]func() error, bundle *spiffebundle.Bundle) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var sequence uint64
		if _, err := fmt.Sscanf(lines.Text(), "sequence %d", &sequence); err == nil {
			bundle.SetSequenceNumber(sequence)
		} else if command := commands[lines.Text()]; command == nil {
			return fmt.Errorf("unknown command %q", lines.Text())
		} else if err := command(); err != nil {
			return err
		}
		say(map[string]any{"done": lines.Text()})
	}
	return lines.Err()
}

// The bundle, and what an endpoint must not answer.
func paths(handler http.Handler, bundle *spiffebundle.Bundle) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/bundle", handler)
	mux.Handle("/moved", http.RedirectHandler("/bundle", http.StatusTemporaryRedirect))
	mux.HandleFunc("/oversized", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(tooMuch))
		_, _ = w.Write(bytes.Repeat([]byte(" "), tooMuch))
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 4096)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/html", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html></html>")
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte{'{', 0xff, '}'}) })
	mux.HandleFunc("/doubled", func(w http.ResponseWriter, _ *http.Request) {
		text, err := bundle.Marshal()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, strings.Replace(string(text), "{", `{"keys":[],`, 1))
	})
	return mux
}

// The SVID that is served now.
type current struct{ svid atomic.Pointer[x509svid.SVID] }

func (c *current) set(leaf tls.Certificate) error {
	certificate, err := x509.ParseCertificate(leaf.Certificate[0])
	if err != nil {
		return err
	}
	id, err := x509svid.IDFromCert(certificate)
	if err != nil {
		return err
	}
	c.svid.Store(&x509svid.SVID{ID: id, Certificates: []*x509.Certificate{certificate}, PrivateKey: leaf.PrivateKey.(crypto.Signer)})
	return nil
}

func (c *current) GetX509SVID() (*x509svid.SVID, error) { return c.svid.Load(), nil }

func untilInputEnds() { _, _ = io.Copy(io.Discard, os.Stdin) }
