package object

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// whole is a Pod with all that is documented of a container's life.
const whole = `apiVersion: v1
kind: Pod
metadata: {name: whole}
spec:
  restartPolicy: Never
  activeDeadlineSeconds: 600
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: first, image: a, restartPolicy: OnFailure, resources: {requests: {cpu: 2, memory: 32Mi}}}
  - name: side
    image: a
    restartPolicy: Always
    resources: {requests: {cpu: 100m, memory: 64Mi}}
    startupProbe: {exec: {command: [up]}, terminationGracePeriodSeconds: 1}
    lifecycle: {preStop: {sleep: {seconds: 1}}}
  - {name: second, image: a, resources: {requests: {cpu: 500m, memory: 1Gi, ephemeral-storage: 2Gi}}}
  containers:
  - name: app
    image: a
    restartPolicy: Never
    restartPolicyRules:
    - {action: Restart, exitCodes: {operator: In, values: [42, 43]}}
    terminationMessagePath: /var/why
    terminationMessagePolicy: FallbackToLogsOnError
    resources: {requests: {cpu: 200m, memory: 128Mi}}
    lifecycle:
      postStart: {httpGet: {port: 80}}
      preStop: {exec: {command: [bye]}}
      stopSignal: SIGQUIT
`

func parseWhole(t *testing.T) *corev1.Pod {
	t.Helper()
	list, err := Parse("whole.yaml", []byte(whole), "")
	if err != nil {
		t.Fatal(err)
	}
	return list[0].Object.(*corev1.Pod)
}

func TestTheLifeOfAContainerIsTaken(t *testing.T) {
	p := parseWhole(t)
	app := p.Spec.Containers[0]
	if r := app.RestartPolicyRules; len(r) != 1 || r[0].Action != corev1.ContainerRestartRuleActionRestart || fmt.Sprint(r[0].ExitCodes.Values) != "[42 43]" {
		t.Errorf("rules %+v", r)
	}
	if app.TerminationMessagePath != "/var/why" || *app.Lifecycle.StopSignal != "SIGQUIT" || app.Lifecycle.PostStart.HTTPGet.Path != "/" {
		t.Errorf("%+v", app)
	}
	if *p.Spec.TerminationGracePeriodSeconds != 0 || *p.Spec.ActiveDeadlineSeconds != 600 {
		t.Errorf("grace %d, deadline %d", *p.Spec.TerminationGracePeriodSeconds, *p.Spec.ActiveDeadlineSeconds)
	}
}

func TestRequests(t *testing.T) {
	p := parseWhole(t)
	// The first init container asks for most CPU, the second, with the sidecar, for
	// most memory.
	if got, want := Requests(&p.Spec), (Amounts{2000, (1024 + 64) << 20, 2 << 30}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	p.Spec.InitContainers = p.Spec.InitContainers[1:2]
	if got, want := Requests(&p.Spec), (Amounts{300, (128 + 64) << 20, 0}); got != want {
		t.Errorf("with the sidecar alone: %+v, want %+v", got, want)
	}
}

// The words of kubectl's STATUS column, and its READY and RESTARTS.
func TestPodStatusWithInitContainers(t *testing.T) {
	no, yes := false, true
	waits := func(why string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Started: &no, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why}}}
	}
	runs := func(ready bool) corev1.ContainerStatus {
		return corev1.ContainerStatus{Started: &yes, Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	}
	starts := runs(false)
	starts.Started = &no
	ends := func(code int32) corev1.ContainerStatus {
		why := "Completed"
		if code != 0 {
			why = "Error"
		}
		return corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: why}}}
	}
	again := func(s corev1.ContainerStatus, n int32) corev1.ContainerStatus {
		s.RestartCount = n
		return s
	}
	coming := waits("PodInitializing")
	type list []corev1.ContainerStatus
	tests := []struct {
		phase corev1.PodPhase
		init  list // of "first", the sidecar, "second"
		app   corev1.ContainerStatus
		begun bool // the condition Initialized
		want  string
	}{
		{"Pending", nil, corev1.ContainerStatus{}, false, "0/2 ContainerCreating 0"},
		{"Pending", list{coming, coming, coming}, coming, false, "0/2 Init:0/3 0"},
		{"Pending", list{waits("ContainerCreating"), coming, coming}, coming, false, "0/2 Init:0/3 0"},
		{"Pending", list{waits("ErrImagePull"), coming, coming}, coming, false, "0/2 Init:ErrImagePull 0"},
		{"Pending", list{starts, coming, coming}, coming, false, "0/2 Init:0/3 0"},
		{"Pending", list{again(waits("CrashLoopBackOff"), 3), coming, coming}, coming, false, "0/2 Init:CrashLoopBackOff 3"},
		{"Failed", list{ends(1), coming, coming}, coming, false, "0/2 Init:Error 0"},
		{"Pending", list{ends(0), starts, coming}, coming, false, "0/2 Init:1/3 0"},
		{"Pending", list{ends(0), runs(true), starts}, coming, false, "1/2 Init:2/3 0"},
		{"Pending", list{again(ends(0), 2), runs(true), ends(0)}, coming, true, "1/2 PodInitializing 0"},
		{"Running", list{again(ends(0), 2), runs(true), ends(0)}, runs(true), true, "2/2 Running 0"},
		{"Running", list{ends(0), again(runs(false), 4), ends(0)}, again(runs(true), 1), true, "1/2 Running 5"},
		{"Running", list{ends(0), again(waits("CrashLoopBackOff"), 4), ends(0)}, runs(true), true, "1/2 Init:CrashLoopBackOff 4"},
		{"Succeeded", list{ends(0), ends(0), ends(0)}, ends(0), true, "0/2 Completed 0"},
		{"Failed", list{ends(0), ends(143), ends(0)}, ends(3), true, "0/2 Error 0"},
	}
	for _, tt := range tests {
		p := parseWhole(t)
		p.Spec.NodeName, p.Status.Phase, p.Status.InitContainerStatuses = "n1", tt.phase, tt.init
		if tt.init != nil {
			p.Status.ContainerStatuses = list{tt.app}
		}
		initialized := corev1.ConditionFalse
		if tt.begun {
			initialized = corev1.ConditionTrue
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodInitialized, Status: initialized}}
		s := summarize(p)
		if got := fmt.Sprintf("%d/%d %s %d", s.ready, s.all, s.status, s.restarts); got != tt.want {
			t.Errorf("%s, %+v: got %s, want %s", tt.phase, tt.init, got, tt.want)
		}
		p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		if got := PodStatus(p); tt.phase == corev1.PodRunning && got != "Terminating" {
			t.Errorf("deleted: %s, want Terminating", got)
		}
	}
}

func TestDescribeTellsOfAContainersLife(t *testing.T) {
	p := parseWhole(t)
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error", Message: "no disk\n\x1b[2Jleft"},
	}}}
	d := &description{}
	if err := d.pod(p); err != nil {
		t.Fatal(err)
	}
	text := d.page.String()
	for _, want := range []string{
		"Init containers", "side", "beside the others", "sleep 1s", "Never; Restart if its exit code is in [42 43]",
		"read from /var/why", "the end of its output", "GET / at port 80", "exec bye", "SIGQUIT", "no disk [2Jleft",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing says %q:\n%s", want, text)
		}
	}
}
