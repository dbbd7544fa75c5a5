package cli

import (
	"bytes"
	"compress/flate"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/proto"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// accessPrefix begins a line that holds all it takes to reach a cluster as one
// person: address, CA and token. It is a secret as the token is.
const accessPrefix = "skeinctx1-"

// packAccess makes one word of a context. The CA travels as DER, in place of its
// PEM, which is a third longer.
func packAccess(access *skeinv1.ClientContext) (string, error) {
	block, _ := pem.Decode([]byte(access.GetCaPem()))
	if block == nil {
		return "", errors.New("the cluster gave no CA certificate")
	}
	raw, err := proto.Marshal(&skeinv1.ClientContext{
		Name: access.GetName(), Server: access.GetServer(), Token: access.GetToken(), Namespace: access.GetNamespace(),
		CaPem: base64.RawStdEncoding.EncodeToString(block.Bytes),
	})
	if err != nil {
		return "", fmt.Errorf("encode access: %w", err)
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		return "", fmt.Errorf("encode access: %w", err)
	}
	_, err = w.Write(raw)
	if err := errors.Join(err, w.Close()); err != nil {
		return "", fmt.Errorf("encode access: %w", err)
	}
	return accessPrefix + base64.RawURLEncoding.EncodeToString(packed.Bytes()), nil
}

// unpackAccess reads what packAccess wrote, and refuses anything cut short.
func unpackAccess(word string) (*skeinv1.ClientContext, error) {
	bad := usageError("copy the whole line that \"skein token create --role\" printed", "that is no access line of a cluster, or not all of it")
	encoded, ok := strings.CutPrefix(strings.TrimSpace(word), accessPrefix)
	if !ok {
		return nil, bad
	}
	packed, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return nil, bad
	}
	const most = 64 << 10 // of any honest one; more is an attack on memory
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), most))
	if err != nil {
		return nil, bad
	}
	access := &skeinv1.ClientContext{}
	if err := proto.Unmarshal(raw, access); err != nil || access.GetServer() == "" || access.GetToken() == "" {
		return nil, bad
	}
	der, err := base64.RawStdEncoding.DecodeString(access.GetCaPem())
	if err != nil {
		return nil, bad
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return nil, bad
	}
	access.CaPem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return access, nil
}
