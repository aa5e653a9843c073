package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// An issuer of X.509-SVIDs for one trust domain, which serves a SPIFFE Workload API on as many Unix sockets
// as there are workloads: whoever asks at a socket is the workload of that socket.
type issuer struct {
	domain spiffeid.TrustDomain

	mu sync.Mutex
	// Of the trust domain's bundle, oldest first; the last one is the newest.
	roots []*authority
	// What SVIDs are signed by, and the certificates between it and its root.
	signer  *authority
	between [][]byte
	// Bundles of other trust domains, which a workload is told as well.
	federated map[string][]byte
	ttl       time.Duration
	denied    bool
	// Closed when something changed.
	changed chan struct{}
}

// Serves until its standard input ends. Each line of input is a command; see `obey`.
func serveWorkloads(arguments []string) error {
	flags := flag.NewFlagSet("workload-api", flag.ExitOnError)
	name := flags.String("domain", "", "the trust domain")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	domain, err := spiffeid.TrustDomainFromString(*name)
	if err != nil {
		return err
	}
	i := &issuer{domain: domain, federated: map[string][]byte{}, ttl: time.Hour, changed: make(chan struct{})}
	if err := i.publish(); err != nil {
		return err
	}
	i.signer = i.newest()
	say(map[string]any{"root": i.newest().certificate.Raw})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := i.obey(strings.Fields(lines.Text())); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		say(map[string]any{"done": lines.Text(), "root": i.newest().certificate.Raw})
	}
	return lines.Err()
}

func (i *issuer) newest() *authority { return i.roots[len(i.roots)-1] }

func (i *issuer) publish() error {
	root, err := newAuthority(i.domain.IDString())
	if err != nil {
		return err
	}
	i.roots = append(i.roots, root)
	return nil
}

func (i *issuer) obey(words []string) (err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(words) == 0 {
		return fmt.Errorf("no command")
	}
	switch command, rest := words[0], words[1:]; {
	// A socket at which SVIDs of that ID are had; none without an ID.
	case command == "serve" && len(rest) > 0:
		err = i.listen(rest[0], strings.Join(rest[1:], ""))
	// A new root in the bundle.
	case command == "publish":
		err = i.publish()
	// It signs from now on, itself or by so many authorities between.
	case command == "use" && len(rest) <= 1:
		depth := 0
		if len(rest) == 1 {
			_, err = fmt.Sscan(rest[0], &depth)
		}
		i.signer, i.between = i.newest(), nil
		for ; err == nil && depth > 0; depth-- {
			var below *authority
			if below, err = i.signer.below(i.domain.IDString()); err == nil {
				i.between = append([][]byte{below.certificate.Raw}, i.between...)
				i.signer = below
			}
		}
	// A root of nobody's bundle signs from now on.
	case command == "stray":
		i.signer, err = newAuthority(i.domain.IDString())
		i.between = nil
	// All roots but the newest leave the bundle.
	case command == "retire":
		i.roots = i.roots[len(i.roots)-1:]
	// A root of another trust domain is told as well.
	case command == "federate" && len(rest) == 1:
		var other *authority
		if other, err = newAuthority("spiffe://" + rest[0]); err == nil {
			i.federated["spiffe://"+rest[0]] = other.certificate.Raw
		}
	case command == "ttl" && len(rest) == 1:
		i.ttl, err = time.ParseDuration(rest[0])
	case command == "deny":
		i.denied = true
	case command == "allow":
		i.denied = false
	case command == "renew":
	default:
		err = fmt.Errorf("no such command")
	}
	close(i.changed)
	i.changed = make(chan struct{})
	return err
}

// An authority that this one signs for.
func (a *authority) below(uri string) (*authority, error) {
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
		NotBefore:             a.certificate.NotBefore,
		NotAfter:              a.certificate.NotAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  uris(uri),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate, key}, err
}

func (i *issuer) listen(path, id string) error {
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, &api{issuer: i, id: id})
	go func() {
		if err := server.Serve(listener); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return nil
}

type api struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	issuer *issuer
	id     string
}

func (a *api) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if err := mayAsk(stream.Context()); err != nil {
		return err
	}
	for {
		response, changed, err := a.issuer.answer(a.id)
		if err != nil {
			return err
		}
		if err := stream.Send(response); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// The SPIFFE Workload Endpoint standard, section 6.3.
func mayAsk(ctx context.Context) error {
	headers, _ := metadata.FromIncomingContext(ctx)
	if said := headers.Get("workload.spiffe.io"); len(said) != 1 || said[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	return nil
}

func (i *issuer) answer(id string) (*workload.X509SVIDResponse, chan struct{}, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.denied || id == "" {
		return nil, nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	leaf, err := i.signer.sign(id, time.Now().Add(i.ttl))
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	chain := leaf.Certificate[0]
	for _, between := range i.between {
		chain = append(chain, between...)
	}
	var bundle []byte
	for _, root := range i.roots {
		bundle = append(bundle, root.certificate.Raw...)
	}
	svid := &workload.X509SVID{SpiffeId: id, X509Svid: chain, X509SvidKey: key, Bundle: bundle}
	return &workload.X509SVIDResponse{
		Svids:            []*workload.X509SVID{svid},
		FederatedBundles: i.federated,
	}, i.changed, nil
}
