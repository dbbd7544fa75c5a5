package agenttest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	appsv1 "k8s.io/api/apps/v1"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Users work with the cluster while fate is at work: some read and write
// registers, some change what runs, one watches.
type users struct {
	cluster *Cluster
	history *history
	watched *watched
	group   sync.WaitGroup
	busy    sync.WaitGroup // those who change something
	stop    context.CancelFunc
	rest    context.CancelFunc // of those
}

const (
	registerCount = 3
	callPatience  = 8 * time.Second
	exclusiveName = "only"
	registerNote  = "sim.skein.dev/value"
)

// begin lets them work until end is called.
func (c *Cluster) begin(seed uint64) *users {
	ctx, stop := context.WithCancel(context.Background())
	busy, rest := context.WithCancel(ctx)
	u := &users{cluster: c, history: &history{}, watched: newWatched(), stop: stop, rest: rest}
	for i := range registerCount {
		name := fmt.Sprintf("reg-%d", i)
		c.eventually(time.Minute, "register "+name+" is made", func() string {
			p := c.person(0, c.machines[0])
			defer p.close()
			call, cancel := context.WithTimeout(ctx, callPatience)
			defer cancel()
			return text(errOf(p.Apply(call, &skeinv1.ApplyRequest{Manifest: deployment(name, 0, 1)})))
		})
	}
	c.eventually(time.Minute, "an exclusive Pod is asked for", func() string {
		p := c.person(0, c.machines[0])
		defer p.close()
		call, cancel := context.WithTimeout(ctx, callPatience)
		defer cancel()
		manifest := strings.Replace(string(deployment(exclusiveName, 1, 1)), "      labels: {", "      annotations: {skein.dev/exclusive: \"true\"}\n      labels: {", 1)
		return text(errOf(p.Apply(call, &skeinv1.ApplyRequest{Manifest: []byte(manifest)})))
	})
	for i, work := range []func(context.Context, *rand.Rand, int){u.readAndWrite, u.readAndWrite, u.readAndWrite, u.deploy, u.deploy} {
		random := rand.New(rand.NewPCG(seed, uint64(i)+100))
		u.busy.Go(func() { work(busy, random, i+1) })
	}
	u.group.Go(func() { u.watch(ctx, rand.New(rand.NewPCG(seed, 99)), 20) })
	return u
}

// stopWork returns when nobody changes anything any more. The watching goes on.
func (u *users) stopWork() {
	u.rest()
	u.busy.Wait()
}

// end returns when all have stopped.
func (u *users) end() {
	u.stopWork()
	u.stop()
	u.group.Wait()
}

func errOf[T any](_ T, err error) error { return err }

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// deployment is a manifest; version changes the template.
func deployment(name string, replicas, version int) []byte {
	return fmt.Appendf(nil, `apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
spec:
  replicas: %[2]d
  selector:
    matchLabels: {app: %[1]s}
  template:
    metadata:
      labels: {app: %[1]s}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: main
        image: program:v%[3]d
        resources:
          requests: {cpu: 10m, memory: 8Mi}
`, name, replicas, version)
}

// staged is the Deployment whose Pods begin with an init container and a sidecar.
const staged = "web-5"

// inStages adds those to a manifest.
func inStages(manifest []byte) []byte {
	const stages = `      initContainers:
      - {name: prepare, image: "program:v1"}
      - {name: beside, image: "program:v1", restartPolicy: Always}
`
	return []byte(strings.Replace(string(manifest), "      containers:\n", stages+"      containers:\n", 1))
}

// with calls a random machine, and rests a moment.
func (u *users) with(ctx context.Context, random *rand.Rand, number int, do func(context.Context, *person)) {
	pause := time.NewTimer(time.Duration(50+random.IntN(700)) * time.Millisecond)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return
	case <-pause.C:
	}
	p := u.cluster.person(number, u.cluster.machines[random.IntN(len(u.cluster.machines))])
	defer p.close()
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callPatience)
	defer cancel()
	do(call, p)
}

// refused tells whether an error says for sure that nothing was changed.
func refused(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAborted, connect.CodePermissionDenied,
		connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodeUnauthenticated:
		return true
	default:
		return false
	}
}

func (u *users) readAndWrite(ctx context.Context, random *rand.Rand, number int) {
	for n := 0; ctx.Err() == nil; n++ {
		register := fmt.Sprintf("reg-%d", random.IntN(registerCount))
		value := fmt.Sprintf("%d-%d", number, n)
		switch kind := random.IntN(4); kind {
		case 0, 1:
			u.with(ctx, random, number, func(ctx context.Context, p *person) {
				if have, ok := u.read(ctx, p, number, register); ok && kind == 1 {
					u.write(ctx, p, number, register, value, have)
				}
			})
		default:
			u.with(ctx, random, number, func(ctx context.Context, p *person) { u.write(ctx, p, number, register, value, nil) })
		}
	}
}

func (u *users) read(ctx context.Context, p *person, number int, register string) (*appsv1.Deployment, bool) {
	begun := u.history.begin()
	res, err := p.Get(ctx, &skeinv1.GetRequest{Kind: "deployment", Name: register, Format: skeinv1.Format_FORMAT_JSON})
	if err != nil || res.GetAgeMs() != 0 {
		return nil, false // an old answer says so
	}
	var d appsv1.Deployment
	if err := json.Unmarshal(res.GetDocument(), &d); err != nil {
		u.cluster.fail("read %s: %v", register, err)
		return nil, false
	}
	u.history.end(number, begun, request{register: register}, answer{value: d.Annotations[registerNote]})
	u.cluster.trace.add("user", "%d read %s = %q, version %s", number, register, d.Annotations[registerNote], d.ResourceVersion)
	return &d, true
}

// write sets a register, if it is still as have says where that is not nil.
func (u *users) write(ctx context.Context, p *person, number int, register, value string, have *appsv1.Deployment) {
	req := &skeinv1.PatchRequest{
		Object:     &skeinv1.ObjectRef{Kind: "deployment", Name: register},
		MergePatch: fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, registerNote, value),
	}
	in := request{register: register, write: true, value: value}
	if have != nil {
		old := have.Annotations[registerNote]
		in.expect = &old
		_, _ = fmt.Sscan(have.ResourceVersion, &req.ExpectVersion)
	}
	begun := u.history.begin()
	_, err := p.Patch(ctx, req)
	u.cluster.trace.add("user", "%d wrote %s = %q (expect %d): %v", number, register, value, req.GetExpectVersion(), err)
	if err != nil && refused(err) {
		return
	}
	u.history.end(number, begun, in, answer{unknown: err != nil})
}

// deploy changes what runs.
func (u *users) deploy(ctx context.Context, random *rand.Rand, number int) {
	name := fmt.Sprintf("web-%d", number)
	for ctx.Err() == nil {
		replicas, version := random.IntN(6), 1+random.IntN(3)
		u.with(ctx, random, number, func(ctx context.Context, p *person) {
			var err error
			var what string
			switch random.IntN(10) {
			case 0:
				what = "deleted"
				_, err = p.Delete(ctx, &skeinv1.DeleteRequest{Objects: []*skeinv1.ObjectRef{{Kind: "deployment", Name: name}}, GraceSeconds: -1})
			case 1, 2, 3, 4:
				what = fmt.Sprintf("applied %d of v%d", replicas, version)
				manifest := deployment(name, replicas, version)
				if name == staged {
					manifest = inStages(manifest)
				}
				_, err = p.Apply(ctx, &skeinv1.ApplyRequest{Manifest: manifest})
			case 5, 6:
				what = fmt.Sprintf("scaled to %d", replicas)
				_, err = p.Patch(ctx, &skeinv1.PatchRequest{
					Object: &skeinv1.ObjectRef{Kind: "deployment", Name: name}, MergePatch: fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas),
				})
			case 7:
				what = "deleted a pod"
				err = u.deleteOne(ctx, p, random, name)
			default:
				return
			}
			u.cluster.trace.add("user", "%d %s: %s: %v", number, name, what, err)
		})
	}
}

func (u *users) deleteOne(ctx context.Context, p *person, random *rand.Rand, app string) error {
	res, err := p.Get(ctx, &skeinv1.GetRequest{Kind: "pod", LabelSelector: "app=" + app})
	if err != nil {
		return err
	}
	rows := res.GetTable().GetRows()
	if len(rows) == 0 {
		return nil
	}
	name := rows[random.IntN(len(rows))].GetCells()[0]
	_, err = p.Delete(ctx, &skeinv1.DeleteRequest{Objects: []*skeinv1.ObjectRef{{Kind: "pod", Name: name}}, GraceSeconds: -1})
	return err
}
