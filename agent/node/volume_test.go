package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/container/containertest"
	"github.com/skein-dev/skein/runtime/image"
)

func sourceOf(kind, name string, data map[string]string) *skeinv1.SourcesResponse {
	src := &skeinv1.Source{Key: &skeinv1.SourceKey{Kind: kind, Namespace: "default", Name: name}, Data: map[string][]byte{}}
	for k, v := range data {
		src.Data[k] = []byte(v)
	}
	return &skeinv1.SourcesResponse{Put: src}
}

// tell is what a voter says: all there is.
func (w *world) tell(all ...*skeinv1.SourcesResponse) {
	w.node.TakeSource(&skeinv1.SourcesResponse{Reset_: true})
	for _, msg := range all {
		w.node.TakeSource(msg)
	}
	w.node.TakeSource(&skeinv1.SourcesResponse{Synced: true})
}

func mounting(volumes ...corev1.Volume) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "a", "tier": "front"}
		for _, v := range volumes {
			p.Spec.Volumes = append(p.Spec.Volumes, v)
			c := &p.Spec.Containers[0]
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
		}
	}
}

func fromConfigMap(name string) corev1.Volume {
	return corev1.Volume{Name: "conf", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}},
	}}
}

func (w *world) files(pod, volume string) map[string]string {
	out := map[string]string{}
	for path, f := range w.volumes.FilesOf("uid-"+pod, volume) {
		out[path] = string(f.Data)
	}
	return out
}

func TestAPodWaitsForItsConfigMapAndHearsOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		stop := w.run()
		w.putObject(newPod("a", mounting(fromConfigMap("app"))))
		pass(time.Second)
		w.tell()
		pass(time.Second)
		if s := w.get("a").Status.ContainerStatuses[0].State.Waiting; s == nil || s.Reason != reasonConfig || !strings.Contains(s.Message, `ConfigMap "app"`) {
			t.Errorf("it waits with %+v", s)
		}
		pass(10 * time.Minute) // it has tried often
		w.tell(sourceOf(object.KindConfigMap, "app", map[string]string{"mode": "one"}))
		pass(time.Second)
		if len(w.running("a")) != 1 || w.files("a", "conf")["mode"] != "one" {
			t.Fatalf("a second after it is there %d run, with %v", len(w.running("a")), w.files("a", "conf"))
		}
		w.tell(sourceOf(object.KindConfigMap, "app", map[string]string{"mode": "two", "more": "x"}))
		pass(time.Second)
		if diff := cmp.Diff(map[string]string{"mode": "two", "more": "x"}, w.files("a", "conf")); diff != "" {
			t.Errorf("after a change (-want +got):\n%s", diff)
		}
		w.tell() // it was deleted: the Pod keeps what it has
		pass(time.Second)
		if got := w.files("a", "conf")["mode"]; got != "two" || len(w.running("a")) != 1 {
			t.Errorf("after it was deleted there is %q", got)
		}
		stop()
		w.delete("a", 0)
		defer w.run()()
		pass(time.Minute)
		if left, _ := w.volumes.Pods(); len(left) > 0 {
			t.Errorf("volumes are left of %v", left)
		}
	})
}

func TestWhatWasToldOutlivesTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		stop := w.run()
		w.tell(sourceOf(object.KindConfigMap, "app", map[string]string{"mode": "one"}), sourceOf(object.KindSecret, "old", map[string]string{"k": "v"}))
		stop()
		defer w.run()() // and no voter answers
		w.putObject(newPod("a", mounting(fromConfigMap("app"))))
		w.putObject(newPod("b", mounting(fromConfigMap("new"))))
		pass(10 * time.Second)
		if len(w.running("a")) != 1 {
			t.Error("without a voter a Pod does not start for which all is there")
		}
		if s := w.get("b").Status.ContainerStatuses[0].State.Waiting; s == nil || !strings.Contains(s.Message, errUnheard.Error()) {
			t.Errorf("the other waits with %+v", s)
		}
		w.tell(sourceOf(object.KindConfigMap, "app", map[string]string{"mode": "one"}))
		if kept, _ := w.volumes.Kept(); len(kept) != 1 {
			t.Errorf("%d sources are kept, of which one is named", len(kept))
		}
	})
}

func TestDownwardFilesFollowThePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		defer w.run()()
		mode := int32(0o400)
		w.putObject(newPod("a", mounting(corev1.Volume{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}, Mode: &mode},
				{Path: "deep/cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.cpu", Divisor: resource.MustParse("1m")}},
			},
		}}})))
		pass(time.Second)
		want := map[string]string{"labels": "app=\"a\"\ntier=\"front\"", "deep/cpu": "2000"}
		if diff := cmp.Diff(want, w.files("a", "down")); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
		if got := w.volumes.FilesOf("uid-a", "down")["labels"].Mode; got != 0o400 {
			t.Errorf("mode %o", got)
		}
		pod := w.get("a")
		pod.Labels["tier"] = "back"
		w.putObject(pod)
		pass(time.Second)
		if got := w.files("a", "down")["labels"]; !strings.Contains(got, `tier="back"`) {
			t.Errorf("after a change of labels: %q", got)
		}
	})
}

func TestAFolderOverItsLimitEndsThePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, containertest.RunForever)
		defer w.run()()
		limit := resource.MustParse("1Mi")
		w.putObject(newPod("a", mounting(corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}})))
		w.volumes.Fill("uid-a", "data", 1<<20)
		pass(time.Minute)
		if got := w.get("a").Status.Phase; got != corev1.PodRunning {
			t.Fatalf("with just as much as it may hold it is %s", got)
		}
		w.volumes.Fill("uid-a", "data", 1<<20+1)
		pass(2 * measureEvery)
		s := w.get("a").Status
		if s.Phase != corev1.PodFailed || s.Reason != reasonEvicted || !strings.Contains(s.Message, `"data"`) || len(w.running("a")) > 0 {
			t.Errorf("%s %s %q, %d run", s.Phase, s.Reason, s.Message, len(w.running("a")))
		}
	})
}

func TestEphemeralStorageHasLimits(t *testing.T) {
	const mib = 1 << 20
	disk := func(text string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(text)}}
	}
	empty := corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	tests := map[string]struct {
		main, side         corev1.ResourceRequirements
		inMain, inSide, in int64 // what is written, and into the volume
		want               string
	}{
		"no limit":                         {inMain: 1 << 40, in: 1 << 40},
		"as much as it may":                {main: disk("3Mi"), inMain: mib, in: 2 * mib},
		"a container":                      {main: disk("1Mi"), side: disk("9Mi"), inMain: mib + 1, want: "container c has written 1048577 bytes, more than its limit of ephemeral-storage, 1Mi"},
		"more files than are counted":      {main: disk("9Pi"), inMain: 4096 * (maxEntries + 1), want: "container c has written more than 200000 files"},
		"all together":                     {main: disk("1Mi"), side: disk("1Mi"), inMain: mib, inSide: mib, in: 1, want: "hold 2097153 bytes together, more than the limits of ephemeral-storage, 2Mi"},
		"one without a limit counts as 0":  {main: disk("2Mi"), inSide: 2*mib + 1, want: "together"},
		"the volume, which has none alone": {main: disk("2Mi"), in: 3 * mib, want: "together"},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, containertest.RunForever)
				defer w.run()()
				pod := newPod("a", mounting(empty))
				pod.Spec.Containers[0].Resources = tt.main
				side := *pod.Spec.Containers[0].DeepCopy()
				side.Name, side.Resources = "side", tt.side
				pod.Spec.Containers = append(pod.Spec.Containers, side)
				w.mu.Lock()
				w.written = map[string]int64{"uid-a.c.0": tt.inMain, "uid-a.side.0": tt.inSide}
				w.mu.Unlock()
				w.putObject(pod)
				w.volumes.Fill("uid-a", "data", tt.in)
				pass(2 * measureEvery)
				s := w.get("a").Status
				switch {
				case tt.want == "" && s.Phase != corev1.PodRunning:
					t.Errorf("%s %s %q", s.Phase, s.Reason, s.Message)
				case tt.want != "" && (s.Phase != corev1.PodFailed || s.Reason != reasonEvicted || !strings.Contains(s.Message, tt.want) || len(w.running("a")) > 0):
					t.Errorf("%s %s %q, want %q", s.Phase, s.Reason, s.Message, tt.want)
				}
			})
		})
	}
}

func TestFoldersOfTheMachineTakeAPolicyOnTheNodeToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu   sync.Mutex
			seen container.Spec
		)
		w := newWorld(t, func(spec container.Spec) containertest.Process {
			mu.Lock()
			defer mu.Unlock()
			seen = spec
			return containertest.Process{Runs: containertest.Forever}
		})
		defer w.run()()
		w.putObject(newPod("a", mounting(corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc"}}})))
		w.tell()
		pass(time.Minute)
		if s := w.get("a").Status.ContainerStatuses[0].State.Waiting; s == nil || s.Reason != reasonConfig || !strings.Contains(s.Message, object.AnnotationHostPath) {
			t.Errorf("without the policy: %+v", s)
		}
		w.tell(&skeinv1.SourcesResponse{Policy: &skeinv1.NamespacePolicy{Namespace: "default", Allows: []string{object.AnnotationHostPath}}})
		pass(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if len(w.running("a")) != 1 || !seen.Security.Allowed.HostPaths || len(seen.Mounts) != 1 {
			t.Errorf("with it: %d run, of %+v", len(w.running("a")), seen)
		}
	})
}

func TestTheEnvironmentTakesValuesOfSources(t *testing.T) {
	yes := true
	src := newSources(nil, nil)
	for _, msg := range []*skeinv1.SourcesResponse{
		sourceOf(object.KindConfigMap, "app", map[string]string{"mode": "fast", "a b": "no variable", "zero": "a\x00b"}),
		sourceOf(object.KindSecret, "db", map[string]string{"password": "p$(X)w"}),
		{Synced: true},
	} {
		src.Take(msg)
	}
	key := func(kind, name, key string, optional *bool) *corev1.EnvVarSource {
		ref := corev1.LocalObjectReference{Name: name}
		if kind == object.KindSecret {
			return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref, Key: key, Optional: optional}}
		}
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: key, Optional: optional}}
	}
	for name, tt := range map[string]struct {
		env   []corev1.EnvVar
		from  []corev1.EnvFromSource
		want  string
		fault string
	}{
		"a key":               {env: []corev1.EnvVar{{Name: "M", ValueFrom: key("ConfigMap", "app", "mode", nil)}}, want: "M=fast"},
		"a secret, as it is":  {env: []corev1.EnvVar{{Name: "P", ValueFrom: key("Secret", "db", "password", nil)}}, want: "P=p$(X)w"},
		"used by another":     {env: []corev1.EnvVar{{Name: "P", ValueFrom: key("Secret", "db", "password", nil)}, {Name: "URL", Value: "x:$(P)"}}, want: "P=p$(X)w URL=x:p$(X)w"},
		"no such key":         {env: []corev1.EnvVar{{Name: "M", ValueFrom: key("ConfigMap", "app", "none", nil)}}, fault: `has no key "none"`},
		"no such Secret":      {env: []corev1.EnvVar{{Name: "M", ValueFrom: key("Secret", "none", "k", nil)}}, fault: `Secret "none" in namespace "default": not found`},
		"optional":            {env: []corev1.EnvVar{{Name: "M", ValueFrom: key("Secret", "none", "k", &yes)}, {Name: "N", ValueFrom: key("Secret", "db", "k", &yes)}}},
		"with a NUL":          {env: []corev1.EnvVar{{Name: "Z", ValueFrom: key("ConfigMap", "app", "zero", nil)}}, fault: "NUL"},
		"all of one":          {from: []corev1.EnvFromSource{{Prefix: "C_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "app"}}}}, want: "C_a b=no variable C_mode=fast"},
		"all of none":         {from: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}}}}, fault: "not found"},
		"all of none, if any": {from: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, Optional: &yes}}}},
	} {
		c := corev1.Container{Name: "c", Env: tt.env, EnvFrom: tt.from}
		pod := podWith(c)
		pod.Namespace = "default"
		got, err := environment(pod, &c, image.Config{}, place{sources: src})
		if (err == nil) != (tt.fault == "") || err != nil && (!strings.Contains(err.Error(), tt.fault) || strings.Contains(err.Error(), "p$(X)w")) {
			t.Errorf("%s: %v, want %q", name, err, tt.fault)
			continue
		}
		delete(got.values, "PATH")
		delete(got.values, "HOSTNAME")
		var list []string
		for _, k := range slices.Sorted(maps.Keys(got.values)) {
			list = append(list, fmt.Sprintf("%s=%s", k, got.values[k]))
		}
		if have := strings.Join(list, " "); err == nil && have != tt.want {
			t.Errorf("%s: %q, want %q", name, have, tt.want)
		}
	}
}

// A privileged container needs its namespace's word on the node, too.
func TestPrivilegesAreAskedForOnTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var seen container.Spec
		w := newWorld(t, func(spec container.Spec) containertest.Process {
			mu.Lock()
			defer mu.Unlock()
			seen = spec
			return containertest.Process{Runs: containertest.Forever}
		})
		defer w.run()()
		yes := true
		w.putObject(newPod("a", func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
		}))
		w.tell()
		pass(time.Minute)
		if s := w.get("a").Status.ContainerStatuses[0].State.Waiting; s == nil || s.Reason != reasonConfig || !strings.Contains(s.Message, object.AnnotationPrivileged) {
			t.Errorf("without the policy: %+v", s)
		}
		w.tell(&skeinv1.SourcesResponse{Policy: &skeinv1.NamespacePolicy{Namespace: "default", Allows: []string{object.AnnotationPrivileged}}})
		pass(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(w.running("a")) != 1 || !seen.Security.Privileged {
			t.Errorf("with it: %d run, of %+v", len(w.running("a")), seen.Security)
		}
	})
}

// So does one that asks for a capability that not everybody has.
func TestCapabilitiesAreAskedForOnTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(container.Spec) containertest.Process { return containertest.Process{Runs: containertest.Forever} })
		defer w.run()()
		for name, add := range map[string]corev1.Capability{"a": "SYS_TIME", "b": "CHOWN"} {
			w.putObject(newPod(name, func(p *corev1.Pod) {
				p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{add}}}
			}))
		}
		allow := func(what string) {
			w.tell(&skeinv1.SourcesResponse{Policy: &skeinv1.NamespacePolicy{Namespace: "default", Allows: []string{object.AnnotationCapabilities + "=" + what}}})
			pass(time.Minute)
		}
		allow("NET_ADMIN")
		s := w.get("a").Status.ContainerStatuses[0].State.Waiting
		if s == nil || s.Reason != reasonConfig || !strings.Contains(s.Message, "SYS_TIME") || !strings.Contains(s.Message, object.AnnotationCapabilities) {
			t.Errorf("without the policy: %+v", s)
		}
		if len(w.running("b")) != 1 {
			t.Error("what everybody has is not given")
		}
		allow("SYS_TIME")
		if len(w.running("a")) != 1 {
			t.Errorf("with it: %+v", w.get("a").Status.ContainerStatuses)
		}
	})
}

// The type of a hostPath says that a container may use the device that it is.
func TestADeviceIsMountedForUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := map[string]container.Mount{}
		w := newWorld(t, func(spec container.Spec) containertest.Process {
			mu.Lock()
			defer mu.Unlock()
			seen[spec.Sandbox.Name] = spec.Mounts[0]
			return containertest.Process{Runs: containertest.Forever}
		})
		defer w.run()()
		for name, kind := range map[string]corev1.HostPathType{"char": corev1.HostPathCharDev, "block": corev1.HostPathBlockDev, "any": corev1.HostPathUnset} {
			w.putObject(newPod(name, mounting(corev1.Volume{Name: "dev", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/dev/fuse", Type: &kind}}})))
		}
		w.tell(&skeinv1.SourcesResponse{Policy: &skeinv1.NamespacePolicy{Namespace: "default", Allows: []string{object.AnnotationHostPath}}})
		pass(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(seen) != 3 || !seen["char"].Device || !seen["block"].Device || seen["any"].Device {
			t.Errorf("mounts %+v", seen)
		}
		if slices.Contains(seen["char"].Options, "nodev") {
			t.Error("a device is mounted where none can be used")
		}
	})
}

// A container waits for the seccomp profile that it names, with the reason told.
func TestAContainerWaitsForItsSeccompProfile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(container.Spec) containertest.Process { return containertest.Process{Runs: containertest.Forever} })
		defer w.run()()
		profile := "team/web.json"
		w.putObject(newPod("a", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &profile},
			}
		}))
		w.tell()
		pass(time.Minute)
		if s := w.get("a").Status.ContainerStatuses[0].State.Waiting; s == nil || s.Reason != reasonConfig || !strings.Contains(s.Message, profile) {
			t.Errorf("without the profile: %+v", s)
		}
		w.driver.AddProfile(profile)
		pass(10 * time.Minute)
		if len(w.running("a")) != 1 {
			t.Errorf("with it: %+v", w.get("a").Status.ContainerStatuses)
		}
	})
}
