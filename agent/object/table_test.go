package object

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func before(d time.Duration) metav1.Time { return metav1.Time{Time: testNow.Add(-d)} }

func meta(name string, age time.Duration) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), CreationTimestamp: before(age)}
}

func runningPod(name, node string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: meta(name, 3*time.Minute)}
	p.Labels = map[string]string{"app": "web", LabelTemplateHash: "7wb2hlbkjh"}
	p.OwnerReferences = []metav1.OwnerReference{Controls(&Revision{ObjectMeta: meta("web-7wb2hlbkjh", time.Hour)})}
	p.Spec = corev1.PodSpec{
		NodeName: node, RestartPolicy: corev1.RestartPolicyAlways,
		Containers: []corev1.Container{{Name: "web", Image: "skein/demo:v1", ImagePullPolicy: corev1.PullIfNotPresent}},
	}
	start := before(2 * time.Minute)
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.64.0.2", HostIP: "192.0.2.1", StartTime: &start,
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: before(90 * time.Second)},
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: before(170 * time.Second)},
		},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "web", Ready: true, ContainerID: "runc://uid.web.0", ImageID: "sha256:00",
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: start}},
		}},
	}
	return p
}

// pod is a running Pod with something changed.
func pod(name string, change func(*corev1.Pod, *corev1.ContainerStatus)) *corev1.Pod {
	p := runningPod(name, "n1")
	if change != nil {
		change(p, &p.Status.ContainerStatuses[0])
	}
	return p
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(reason string, code, signal int32, ago time.Duration) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		Reason: reason, ExitCode: code, Signal: signal, StartedAt: before(ago + 10*time.Second), FinishedAt: before(ago),
	}}
}

func crashed(p *corev1.Pod, c *corev1.ContainerStatus) {
	c.Ready, c.RestartCount = false, 4
	c.State = waiting("CrashLoopBackOff", "back-off 80s restarting container web")
	c.LastTerminationState = ended("OOMKilled", 137, 9, 2*time.Minute)
	p.Status.Conditions[0].Status = corev1.ConditionFalse
	p.Status.Conditions[0].Reason = "ContainersNotReady"
	p.Status.Conditions[0].Message = "containers with unready status: [web]"
}

// leased is an exclusive Pod whose node is lost: another waits for its lease.
func leased(p *corev1.Pod, _ *corev1.ContainerStatus) {
	now, none := metav1.NewTime(testNow), int64(0)
	p.Annotations = map[string]string{AnnotationExclusive: "true"}
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &none
	p.Status.Reason = ReasonLeaseHeld
	p.Status.Message = "node n1 is lost; its replacement waits until 12:00:11.0 for the lease of node n1"
}

func unplaced(p *corev1.Pod, _ *corev1.ContainerStatus) {
	machines := false
	p.Spec.NodeName, p.Spec.HostUsers = "", &machines
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", LastTransitionTime: before(time.Minute),
		Message: "0 of 3 nodes fit: 2 have too little memory, 1 is cordoned",
	}}}
}

func podRows(t *testing.T) []*state.Row {
	t.Helper()
	pods := []*corev1.Pod{
		pod("running", nil),
		pod("unplaced", unplaced),
		pod("creating", func(p *corev1.Pod, _ *corev1.ContainerStatus) {
			p.Status = corev1.PodStatus{Phase: corev1.PodPending}
		}),
		pod("no-image", func(p *corev1.Pod, c *corev1.ContainerStatus) {
			p.Status.Phase, c.Ready, c.State = corev1.PodPending, false, waiting("ErrImagePull", "no node has it")
		}),
		pod("crashing", crashed),
		pod("not-ready", func(_ *corev1.Pod, c *corev1.ContainerStatus) { c.Ready = false }),
		pod("restarted", func(_ *corev1.Pod, c *corev1.ContainerStatus) {
			c.RestartCount, c.LastTerminationState = 1, ended("Error", 1, 0, 26*time.Hour)
		}),
		pod("completed", func(p *corev1.Pod, c *corev1.ContainerStatus) {
			p.Status.Phase, c.Ready, c.State = corev1.PodSucceeded, false, ended("Completed", 0, 0, time.Minute)
		}),
		pod("failed", func(p *corev1.Pod, c *corev1.ContainerStatus) {
			p.Status.Phase, c.Ready, c.State = corev1.PodFailed, false, ended("", 3, 0, time.Minute)
		}),
		pod("killed", func(_ *corev1.Pod, c *corev1.ContainerStatus) {
			c.Ready, c.State = false, ended("", 137, 9, time.Minute)
		}),
		pod("one-done", func(p *corev1.Pod, c *corev1.ContainerStatus) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "job"})
			done := *c
			done.Name, done.Ready, done.State = "job", false, ended("Completed", 0, 0, time.Minute)
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, done)
		}),
		pod("ending", func(p *corev1.Pod, _ *corev1.ContainerStatus) {
			now := before(time.Second)
			p.DeletionTimestamp = &now
		}),
		pod("lost", func(p *corev1.Pod, _ *corev1.ContainerStatus) {
			now := before(time.Second)
			p.DeletionTimestamp, p.Status.Reason = &now, ReasonNodeLost
		}),
	}
	rows := make([]*state.Row, len(pods))
	for i, p := range pods {
		rows[i] = rowOf(t, p, uint64(i+1))
	}
	return rows
}

func node(name string, ready corev1.NodeCondition, change func(*corev1.Node)) *corev1.Node {
	ready.Type, ready.LastTransitionTime = corev1.NodeReady, before(5*time.Minute)
	n := &corev1.Node{ObjectMeta: meta(name, 48*time.Hour)}
	n.Namespace = ""
	n.Labels = map[string]string{LabelHostname: name, LabelZone: "eu-1"}
	n.Annotations = map[string]string{AnnotationAdvertise: "192.0.2.1:7373"}
	yes, no := true, false
	n.Status = corev1.NodeStatus{
		RuntimeHandlers: []corev1.NodeRuntimeHandler{{Name: "other", Features: &corev1.NodeRuntimeHandlerFeatures{UserNamespaces: &no}}, {Features: &corev1.NodeRuntimeHandlerFeatures{UserNamespaces: &yes}}},

		Conditions: []corev1.NodeCondition{ready}, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
		Capacity:    corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8035Mi"), "ephemeral-storage": resource.MustParse("264212084Ki"), "pods": resource.MustParse("110")},
		Allocatable: corev1.ResourceList{"cpu": resource.MustParse("3900m"), "memory": resource.MustParse("7779Mi"), "ephemeral-storage": resource.MustParse("243497856600"), "pods": resource.MustParse("110")},
		Images:      []corev1.ContainerImage{{Names: []string{"skein/demo:v1"}, SizeBytes: 6_543_210}},
		NodeInfo: corev1.NodeSystemInfo{
			OSImage: "Debian GNU/Linux 13", KernelVersion: "6.12.0", OperatingSystem: "linux", Architecture: "amd64", KubeletVersion: "v0.1.0", ContainerRuntimeVersion: "runc://1.5.2",
		},
	}
	if change != nil {
		change(n)
	}
	return n
}

func nodeRows(t *testing.T) []*state.Row {
	t.Helper()
	return []*state.Row{
		rowOf(t, node("n1", corev1.NodeCondition{Status: "True"}, func(n *corev1.Node) { n.Labels[LabelLeader], n.Labels[LabelVoter] = "true", "true" }), 1),
		rowOf(t, node("n2", corev1.NodeCondition{Status: "True"}, func(n *corev1.Node) { n.Spec.Unschedulable = true; n.Labels[LabelVoter] = "never" }), 2),
		rowOf(t, node("n3", corev1.NodeCondition{Status: "Unknown", Reason: ReasonNodeLost}, nil), 3),
		rowOf(t, node("n4", corev1.NodeCondition{Status: "Unknown", Reason: ReasonSuspect}, nil), 4),
		rowOf(t, node("n5", corev1.NodeCondition{Status: "False", Reason: ReasonAgentGone}, nil), 5),
		rowOf(t, node("n6", corev1.NodeCondition{Status: "True"}, func(n *corev1.Node) {
			n.Status.Conditions = append(n.Status.Conditions,
				corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: "True"}, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: "False"})
		}), 6),
		rowOf(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "new", UID: "u"}}, 7),
	}
}

func deploymentRow(t *testing.T) *state.Row {
	t.Helper()
	d, err := Decode[appsv1.Deployment](stored(t, web))
	if err != nil {
		t.Fatal(err)
	}
	d.CreationTimestamp = before(time.Hour)
	d.Status = appsv1.DeploymentStatus{
		ObservedGeneration: 1, Replicas: 4, UpdatedReplicas: 2, ReadyReplicas: 3, AvailableReplicas: 2, Conditions: []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentProgressing, Status: "True", Reason: "NewRevision", Message: "2 of 3 Pods replaced", LastTransitionTime: before(time.Minute)},
			{Type: appsv1.DeploymentAvailable, Status: "True", Reason: "MinimumReplicasAvailable", LastTransitionTime: before(time.Hour)},
		},
	}
	return rowOf(t, d, 5)
}

func revisionRows(t *testing.T) []*state.Row {
	t.Helper()
	var rows []*state.Row
	for i, image := range []string{"skein/demo:v1", "skein/demo:v2"} {
		r := &Revision{ObjectMeta: meta(fmt.Sprintf("web-hash%d", i), time.Duration(2-i)*time.Hour)}
		r.OwnerReferences = []metav1.OwnerReference{Controls(&appsv1.Deployment{ObjectMeta: meta("web", time.Hour)})}
		r.Spec.Number = int64(i + 1)
		r.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: image}}
		r.Status = RevisionStatus{Replicas: 2, ReadyReplicas: int32(2 - i)}
		rows = append(rows, rowOf(t, r, uint64(i+1)))
	}
	return rows
}

func eventRows(t *testing.T) []*state.Row {
	t.Helper()
	event := func(name string, first, last time.Duration, count int32, reason, message string) *state.Row {
		e := &corev1.Event{ObjectMeta: meta(name, first), Type: corev1.EventTypeNormal, Reason: reason, Message: message, Count: count}
		e.FirstTimestamp, e.LastTimestamp = before(first), before(last)
		e.InvolvedObject = corev1.ObjectReference{Kind: KindPod, Namespace: "default", Name: "web-1", UID: "uid-web-1"}
		e.Source = corev1.EventSource{Component: "node", Host: "n1"}
		if count > 1 {
			e.Type = corev1.EventTypeWarning
		}
		return rowOf(t, e, uint64(1000-last/time.Second))
	}
	return []*state.Row{
		event("a", 10*time.Minute, 5*time.Second, 7, "Unhealthy", "readiness probe of web:\nHTTP 500"),
		event("b", time.Minute, time.Minute, 1, "Started", "container web"),
		event("c", 2*time.Minute, 2*time.Minute, 1, "Scheduled", "to node n1"),
	}
}

func imageRows(t *testing.T) []*state.Row {
	t.Helper()
	i := &Image{ObjectMeta: metav1.ObjectMeta{Name: ImageName("skein/demo:v1"), UID: "u", CreationTimestamp: before(time.Hour)}}
	i.Spec = ImageSpec{Reference: "skein/demo:v1", Digest: "sha256:" + strings.Repeat("ab", 32), Size: 6_543_210}
	return []*state.Row{rowOf(t, i, 1)}
}

func namespaceRows(t *testing.T) []*state.Row {
	t.Helper()
	a := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "u", CreationTimestamp: before(time.Hour)}}
	b := a.DeepCopy()
	b.Name = "going"
	b.DeletionTimestamp = &metav1.Time{Time: testNow}
	return []*state.Row{rowOf(t, a, 1), rowOf(t, b, 2)}
}

func TestTables(t *testing.T) {
	all := map[string][]*state.Row{
		KindPod: podRows(t), KindNode: nodeRows(t), KindDeployment: {deploymentRow(t)}, KindRevision: revisionRows(t),
		KindEvent: eventRows(t), KindImage: imageRows(t), KindNamespace: namespaceRows(t),
		KindConfigMap: {configMapRow(t)}, KindSecret: {secretRow(t)},
		KindService: serviceRows(t), KindEndpointSlice: {sliceRow(t)}, KindNetworkPolicy: {policyRow(t)},
	}
	opt := TableOptions{
		Now: testNow, PodsOn: func(node string) int { return len(node) }, Holders: func(*Image) int { return 3 },
	}
	for _, k := range Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			opt := opt
			narrow, err := Table(k.Name, all[k.Name], opt)
			if err != nil {
				t.Fatal(err)
			}
			opt.Wide, opt.Namespaces = true, true
			wide, err := Table(k.Name, all[k.Name], opt)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "tables/"+k.Plural+".txt", drawn(narrow)+"\n"+drawn(wide))
			for i, row := range narrow.GetRows() {
				if k.Name != KindEvent && row.GetKey() != RowKey(all[k.Name][i].Key) {
					t.Errorf("row %d has the key %q", i, row.GetKey())
				}
			}
		})
	}
	if _, err := Table(KindToken, nil, opt); err == nil {
		t.Error("tokens have a table")
	}
	if _, err := Table(KindPod, []*state.Row{{Key: state.Key{Kind: KindPod}, Body: []byte("{")}}, opt); err == nil {
		t.Error("a broken row was drawn")
	}
}

func drawn(table *skeinv1.Table) string {
	var p page
	rows := [][]string{table.GetColumns()}
	for _, row := range table.GetRows() {
		rows = append(rows, row.GetCells())
	}
	p.table(rows)
	return p.String()
}

func TestDescribe(t *testing.T) {
	web := deploymentRow(t)
	tests := map[string]struct {
		row  *state.Row
		with Related
	}{
		"pod-running":  {rowOf(t, pod("web-1", nil), 1), Related{Events: eventRows(t)}},
		"pod-crashing": {rowOf(t, pod("web-1", crashed), 1), Related{}},
		"pod-unplaced": {rowOf(t, pod("web-1", unplaced), 1), Related{}},
		"pod-mounts": {rowOf(t, pod("web-1", func(p *corev1.Pod, _ *corev1.ContainerStatus) {
			yes, c := true, &p.Spec.Containers[0]
			p.Spec.Volumes = []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
				{Name: "db", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "db", Optional: &yes}}},
				{Name: "logs", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/log"}}},
			}
			c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data", SubPath: "a"}, {Name: "db", MountPath: "/db", ReadOnly: true}}
			c.EnvFrom = []corev1.EnvFromSource{{Prefix: "APP_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "app"}}}}
			c.Env = append(c.Env, corev1.EnvVar{Name: "PW", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: "db"}, Key: "password",
			}}})
		}), 1), Related{}},
		"pod-leased":           {rowOf(t, pod("web-1", leased), 1), Related{}},
		"service":              {serviceRows(t)[0], Related{Slices: []*state.Row{sliceRow(t)}}},
		"service-headless":     {serviceRows(t)[2], Related{Slices: []*state.Row{sliceRow(t)}}},
		"service-empty":        {serviceRows(t)[1], Related{}},
		"service-name":         {serviceRows(t)[3], Related{}},
		"endpointslice":        {sliceRow(t), Related{}},
		"networkpolicy":        {policyRow(t), Related{}},
		"networkpolicy-closed": {stored(t, "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed}, spec: {podSelector: {}}}"), Related{}},
		"configmap":            {configMapRow(t), Related{}},
		"secret":               {secretRow(t), Related{}},
		"deployment":           {web, Related{Pods: podRows(t)[:3], Revisions: revisionRows(t), Events: eventRows(t)[:1]}},
		"node":                 {nodeRows(t)[0], Related{Pods: podRows(t)[:1]}},
		"node-new":             {nodeRows(t)[5], Related{}},
		"namespace":            {namespaceRows(t)[1], Related{}},
		"revision":             {revisionRows(t)[0], Related{Pods: podRows(t)[:1]}},
		"image":                {imageRows(t)[0], Related{}},
		"event":                {eventRows(t)[0], Related{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			text, err := Describe(tt.row, tt.with, testNow)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "describe/"+name+".txt", text)
		})
	}
	if _, err := Describe(rowOf(t, &Token{ObjectMeta: metav1.ObjectMeta{Name: "x", UID: "u"}}, 1), Related{}, testNow); err == nil {
		t.Error("a token was described")
	}
}

func TestDocument(t *testing.T) {
	rows := append(namespaceRows(t), deploymentRow(t))
	var b strings.Builder
	for _, d := range []struct {
		rows   []*state.Row
		format skeinv1.Format
		single bool
	}{
		{rows[2:], skeinv1.Format_FORMAT_YAML, true},
		{rows[:2], skeinv1.Format_FORMAT_JSON, false},
		{rows[:1], skeinv1.Format_FORMAT_JSON, true},
		{nil, skeinv1.Format_FORMAT_JSON, false},
		{nil, skeinv1.Format_FORMAT_YAML, false},
		{rows[:2], skeinv1.Format_FORMAT_YAML, false},
		{rows, skeinv1.Format_FORMAT_NAME, false},
	} {
		doc, err := Document(d.rows, d.format, d.single)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "# %s, single %v\n%s", d.format, d.single, doc)
	}
	golden(t, "documents.txt", b.String())
	if _, err := Document(rows, skeinv1.Format_FORMAT_WIDE, false); err == nil {
		t.Error("a table was written as a document")
	}
}

func TestSizesAreReadable(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1kB", 999_949: "999.9kB", 999_950: "1MB", 45_200_000: "45.2MB", 1 << 62: "4.6EB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 1023: "1023", 1024: "1Ki", 8 << 30: "8Gi", 7779 << 20: "7.6Gi"} {
		if got := memoryText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
