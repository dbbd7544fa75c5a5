package agenttest

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/snapshotfile"
)

const canary = "hunter2-canary-c0de"

// canaries are the ways in which the secret could be written.
var canaries = []string{canary, base64.StdEncoding.EncodeToString([]byte(canary))[:20]}

const secretive = `apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: ` + canary + `}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: program:v1
    env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}]
    volumeMounts: [{name: db, mountPath: /db}]
  volumes: [{name: db, secret: {secretName: db}}]
---
apiVersion: v1
kind: Pod
metadata: {name: waits}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: program:v1
    env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: none}}}]
`

// A seeker looks for the secret in what it is given.
type seeker struct{ c *Cluster }

func (s seeker) in(what string, text []byte) {
	for _, w := range canaries {
		if bytes.Contains(text, []byte(w)) {
			s.c.fail("the secret is in %s", what)
		}
	}
}

// files looks into what every machine has on its disk.
func (s seeker) files() {
	for _, m := range s.c.machines {
		err := filepath.WalkDir(m.dir, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it was only there for a moment
			}
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			if body, err := os.ReadFile(path); err == nil {
				s.in(path, body)
			}
			return nil
		})
		if err != nil {
			s.c.fail("%v", err)
		}
	}
}

// rows looks into what voters hold, which is what the log carries.
func (s seeker) rows() {
	for _, m := range s.c.machines {
		for _, row := range m.run.current().Consensus().Store().List(state.AllKinds, "", "") {
			s.in(m.Name+": "+row.Key.String(), row.Body)
		}
	}
}

// answers looks into what people are told who may not read secrets.
func (s seeker) answers(ctx context.Context, p *person) error {
	for _, kind := range []string{"secrets", "pods", "events"} {
		res, err := p.Get(ctx, &skeinv1.GetRequest{Kind: kind, Format: skeinv1.Format_FORMAT_WIDE})
		if err != nil {
			return err
		}
		s.in("the table of "+kind, []byte(res.String()))
	}
	for _, ref := range []*skeinv1.ObjectRef{{Kind: "secret", Name: "db"}, {Kind: "pod", Name: "user"}, {Kind: "pod", Name: "waits"}} {
		res, err := p.Describe(ctx, &skeinv1.DescribeRequest{Object: ref})
		if err != nil {
			return err
		}
		s.in("the description of "+ref.GetName(), []byte(res.GetText()))
	}
	stream, err := p.SaveSnapshot(ctx, &skeinv1.SaveSnapshotRequest{})
	if err != nil {
		return err
	}
	defer stream.Close()
	var file bytes.Buffer
	for {
		part, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		file.Write(part.GetChunk())
	}
	s.in("a snapshot", file.Bytes())
	found := false
	_, err = snapshotfile.Read(&file, func(o *logv1.Object) error {
		found = found || o.GetKey().GetKind() == "Secret"
		s.in("a snapshot's "+o.GetKey().GetName(), o.GetBody())
		return nil
	})
	if err == nil && !found {
		err = errors.New("the snapshot holds no Secret")
	}
	return err
}

// TestASecretIsFoundInNothingThatIsKept looks for a secret that a Pod uses in all
// that is written and told, but where it belongs.
func TestASecretIsFoundInNothingThatIsKept(t *testing.T) {
	inCluster(t, 4, func(c *Cluster) {
		c.eventually(time.Minute, "three vote", c.settled)
		c.user(func(ctx context.Context, p *person) error {
			return errOf(p.Apply(ctx, &skeinv1.ApplyRequest{Manifest: []byte(secretive)}))
		})
		c.eventually(time.Minute, "one has the secret, the other waits", func() string {
			var runs string
			for _, m := range c.machines {
				pods, _ := m.volumes.Pods()
				for _, uid := range pods {
					if string(m.volumes.FilesOf(uid, "db")["password"].Data) == canary {
						runs = m.Name
					}
				}
			}
			told := ""
			c.user(func(ctx context.Context, p *person) error {
				res, err := p.Get(ctx, &skeinv1.GetRequest{Kind: "pod", Name: "waits", Format: skeinv1.Format_FORMAT_JSON})
				told = string(res.GetDocument())
				return err
			})
			if runs == "" || !strings.Contains(told, `has no key \"none\"`) {
				return "on " + runs + ": " + told
			}
			return ""
		})
		s := seeker{c}
		s.rows()
		s.files()
		c.user(s.answers)
		s.in("what agents log", []byte(c.trace.String()))
	})
}
