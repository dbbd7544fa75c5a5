package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"skein": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(Run(ctx, os.Args[1:], Console{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}})
}

// Scripts run skein as people do, each against a cluster of its own that is
// reached at $SKEIN_SOCKET, and with TLS and $TOKEN at $SERVER. ca.pem is its CA.
// At $STRANGER is another cluster, of other.pem.
//
//	code N skein …    it ends with exit code N
//	mode NAME         how the cluster behaves from now on
//	asked             what was asked of the cluster since, on stdout
//	received FILE     the image that was imported is FILE
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			f := newFake()
			env.Values["fake"] = f
			return setupCluster(env, f)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				var exit *exec.ExitError
				if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
					got = exit.ExitCode()
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if got != want {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			},
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				f := ts.Value("fake").(*fake)
				f.mu.Lock()
				defer f.mu.Unlock()
				f.mode = args[0]
			},
			"asked": func(ts *testscript.TestScript, _ bool, _ []string) {
				_, err := io.WriteString(ts.Stdout(), strings.Join(append(ts.Value("fake").(*fake).takeAsked(), ""), "\n"))
				ts.Check(err)
			},
			"received": func(ts *testscript.TestScript, _ bool, args []string) {
				f := ts.Value("fake").(*fake)
				f.mu.Lock()
				got := string(f.image)
				f.mu.Unlock()
				if got != ts.ReadFile(args[0]) {
					ts.Fatalf("%d bytes came in, want those of %s", len(got), args[0])
				}
			},
		},
	})
}

func setupCluster(env *testscript.Env, f *fake) error {
	dir, err := os.MkdirTemp("", "sk") // short: a socket's path has at most 107 letters
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	unix, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	address, ca, err := serveTLS(env, f, unix)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.token = personToken(ca)
	f.mu.Unlock()
	stranger, otherCA, err := serveTLS(env, newFake())
	if err != nil {
		return err
	}
	env.Vars = append(env.Vars,
		"SKEIN_SOCKET="+socket, "SERVER=https://"+address, "STRANGER=https://"+stranger, "TOKEN="+f.secret(),
		"SKEIN_CONFIG="+filepath.Join(env.WorkDir, "config.json"), "TERM=xterm")
	return errors.Join(
		os.WriteFile(filepath.Join(env.WorkDir, "ca.pem"), []byte(ca), 0o600),
		os.WriteFile(filepath.Join(env.WorkDir, "other.pem"), []byte(otherCA), 0o600),
	)
}

// serveTLS serves on a port of its own, as a node does, and on what else is given.
func serveTLS(env *testscript.Env, f *fake, also ...net.Listener) (address, caPEM string, err error) {
	certificate, caPEM, err := newCertificate()
	if err != nil {
		return "", "", err
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	secure := tls.NewListener(tcp, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"},
	})
	env.Defer(serve(f, append(also, secure)...))
	return tcp.Addr().String(), caPEM, nil
}

// serve answers on every listener until the function that it returns is called.
func serve(f *fake, listeners ...net.Listener) func() {
	server := connect.NewServer(f.intercept)
	skeinv1connect.RegisterClusterServiceHandler(server, f)
	skeinv1connect.RegisterInsideServiceHandler(server, f)
	skeinv1connect.RegisterImageServiceHandler(server, f)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server, connecthttp.WithReadMaxBytes(0))
	web := &http.Server{Handler: mux, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	web.Protocols.SetHTTP2(true)
	web.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{}, len(listeners))
	for _, listener := range listeners {
		go func() {
			_ = web.Serve(listener) // ends with Close below
			done <- struct{}{}
		}()
	}
	return func() {
		_ = web.Close()
		for range listeners {
			<-done
		}
	}
}

// newCertificate makes a CA and a node's certificate by it.
func newCertificate() (tls.Certificate, string, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "skein CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	node := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "n1"}, DNSNames: []string{serverName},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, node, ca, key.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	return tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, string(caPEM), nil
}
