package containertest

import (
	"archive/tar"
	"errors"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-dev/skein/runtime/container"
)

// testNoProfile asks for a seccomp profile that the machine does not have.
func testNoProfile(p *play) {
	p.must(p.Driver.Prepare(p.ctx, p.sandbox("pod")))
	spec := p.spec(container.ID{Pod: "pod", Name: "a"}, "sleep")
	spec.Security.SeccompProfile = "missing.json"
	if err := p.Driver.Start(p.ctx, spec); !errors.Is(err, container.ErrNoProfile) {
		p.t.Errorf("%v, want it refused", err)
	}
	if _, runs := p.status(spec.ID); runs {
		p.t.Error("it runs without")
	}
}

// testNotAllowed asks for what a namespace has to allow.
func testNotAllowed(p *play) {
	p.must(p.Driver.Prepare(p.ctx, p.sandbox("pod")))
	for name, tt := range map[string]struct {
		security container.Security
		refused  bool
	}{
		"privileged":  {security: container.Security{Privileged: true}, refused: true},
		"capability":  {security: container.Security{AddCapabilities: []string{"SYS_ADMIN"}}, refused: true},
		"another":     {security: container.Security{AddCapabilities: []string{"SYS_ADMIN"}, Allowed: container.Allowed{Capabilities: []string{"NET_ADMIN"}}}, refused: true},
		"all":         {security: container.Security{AddCapabilities: []string{"ALL"}, Allowed: container.Allowed{Capabilities: []string{"NET_ADMIN"}}}, refused: true},
		"of-everyone": {security: container.Security{AddCapabilities: []string{"CHOWN"}}},
		"allowed":     {security: container.Security{AddCapabilities: []string{"NET_ADMIN"}, Allowed: container.Allowed{Capabilities: []string{"NET_ADMIN"}}}},
	} {
		spec := p.spec(container.ID{Pod: "pod", Name: name}, "sleep")
		spec.Security = tt.security
		switch err := p.Driver.Start(p.ctx, spec); {
		case !tt.refused:
			p.must(err)
		case !errors.Is(err, container.ErrNotAllowed):
			p.t.Errorf("%s: %v, want it refused", name, err)
		}
		if _, runs := p.status(spec.ID); runs == tt.refused {
			p.t.Errorf("%s: it runs: %v", name, runs)
		}
	}
}

// testVolumes writes to what an image calls its volume, in a root that cannot be
// written.
func testVolumes(p *play) {
	id := p.startSpec("pod", func(s *container.Spec) {
		s.Security.ReadOnlyRoot, s.Volumes = true, []string{"/var/data", "/etc"}
	}, "sleep")
	in := archive(p, tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o600, Uname: "one"})
	_, err := p.Driver.CopyIn(p.ctx, id, container.CopySpec{Path: "/var/data"}, in)
	p.must(err)
	if diff := cmp.Diff([]string{"a -rw------- one"}, p.copyOut(id, "/var/data/a")); diff != "" {
		p.t.Errorf("in the volume (-want +got):\n%s", diff)
	}
	p.must(p.Driver.Remove(p.ctx, id))
}

// testSharePIDs restarts one of two containers that share processes.
func testSharePIDs(p *play) {
	box := p.sandbox("pod")
	box.SharePIDs, box.Users = true, false // one of them, not both
	p.must(p.Driver.Prepare(p.ctx, box))
	stays, ends := container.ID{Pod: "pod", Name: "stays"}, container.ID{Pod: "pod", Name: "ends"}
	p.must(p.Driver.Start(p.ctx, p.spec(stays, "sleep")))
	for ends.Attempt < 2 {
		p.must(p.Driver.Start(p.ctx, p.spec(ends, "exit", "3")))
		if s := p.exited(ends); s.ExitCode != 3 {
			p.t.Errorf("it ended with %+v", s)
		}
		ends.Attempt++
	}
	if s, ok := p.status(stays); !ok || s.State != container.Running {
		p.t.Errorf("the other one: %+v", s)
	}
	if list, err := p.Driver.List(p.ctx); err != nil || len(list) != 3 {
		p.t.Errorf("containers: %+v, %v", list, err)
	}
	p.must(p.Driver.Stop(p.ctx, stays, 0))
	p.must(p.Driver.RemoveSandbox(p.ctx, "pod"))
	if list, err := p.Driver.Sandboxes(p.ctx); err != nil || len(list) != 0 {
		p.t.Errorf("left: %+v, %v", list, err)
	}
}

func testHostPIDs(p *play) {
	box := p.sandbox("pod")
	box.HostPIDs, box.HostIPC, box.Users = true, true, false
	p.must(p.Driver.Prepare(p.ctx, box))
	spec := p.spec(container.ID{Pod: "pod", Name: "c"}, "sleep")
	if err := p.Driver.Start(p.ctx, spec); !errors.Is(err, container.ErrNotAllowed) {
		p.t.Errorf("not allowed: %v", err)
	}
	spec.Security.Allowed.Privileged = true
	p.must(p.Driver.Start(p.ctx, spec))
}
