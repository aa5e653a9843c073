package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// What a client is told on its command line.
type endpoint struct {
	domain spiffeid.TrustDomain
	url    string
	// Of the trust domain of the endpoint; the latest bundle is used for the next connection.
	bundles *spiffebundle.Set
	option  federation.FetchOption
}

func endpointOf(name string, arguments []string) (*endpoint, error) {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	domain := flags.String("domain", "", "the trust domain whose bundle it is")
	url := flags.String("url", "", "where it is")
	id := flags.String("id", "", "https_spiffe: the ID of the endpoint")
	file := flags.String("bundle", "", "https_spiffe: the file of a bundle of the endpoint's trust domain")
	roots := flags.String("roots", "", "https_web: the file of the roots")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	of, err := spiffeid.TrustDomainFromString(*domain)
	if err != nil {
		return nil, err
	}
	it := &endpoint{domain: of, url: *url, bundles: spiffebundle.NewSet()}
	if *roots != "" {
		pem, err := os.ReadFile(*roots)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate in " + *roots)
		}
		it.option = federation.WithWebPKIRoots(pool)
		return it, nil
	}
	server, err := spiffeid.FromString(*id)
	if err != nil {
		return nil, err
	}
	bundle, err := spiffebundle.Load(server.TrustDomain(), *file)
	if err != nil {
		return nil, err
	}
	it.bundles.Add(bundle)
	it.option = federation.WithSPIFFEAuth(it.bundles, server)
	return it, nil
}

// What go-spiffe understood of a bundle.
func understood(bundle *spiffebundle.Bundle) map[string]any {
	roots := [][]byte{}
	for _, root := range bundle.X509Authorities() {
		roots = append(roots, root.Raw)
	}
	said := map[string]any{
		"domain": bundle.TrustDomain().Name(),
		"roots":  roots,
		"jwt":    len(bundle.JWTAuthorities()),
	}
	if sequence, ok := bundle.SequenceNumber(); ok {
		said["sequence"] = sequence
	}
	if hint, ok := bundle.RefreshHint(); ok {
		said["hint"] = int64(hint / time.Second)
	}
	return said
}

func fetch(arguments []string) error {
	from, err := endpointOf("fetch", arguments)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	bundle, err := federation.FetchBundle(ctx, from.domain, from.url, from.option)
	if err != nil {
		return err
	}
	say(understood(bundle))
	return nil
}

// Says every new bundle until its standard input ends.
func watch(arguments []string) error {
	from, err := endpointOf("watch", arguments)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		untilInputEnds()
		cancel()
	}()
	err = federation.WatchBundle(ctx, from.domain, from.url, &watcher{bundles: from.bundles}, from.option)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

type watcher struct {
	bundles *spiffebundle.Set
	mutex   sync.Mutex
	last    string
}

// Sooner than any hint, so that no test waits for one.
func (w *watcher) NextRefresh(time.Duration) time.Duration { return 50 * time.Millisecond }

func (w *watcher) OnUpdate(bundle *spiffebundle.Bundle) {
	w.bundles.Add(bundle)
	say(understood(bundle))
}

func (w *watcher) OnError(err error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.last != err.Error() {
		w.last = err.Error()
		say(map[string]any{"error": w.last})
	}
}

func parse(arguments []string) error {
	flags := flag.NewFlagSet("parse", flag.ExitOnError)
	domain := flags.String("domain", "", "the trust domain")
	file := flags.String("bundle", "", "the file")
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
	say(understood(bundle))
	return nil
}
