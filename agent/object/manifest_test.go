package object

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// web is a Deployment with something of everything that is supported.
const web = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web, tier: front}
  annotations:
    team: "blue"
spec:
  replicas: 3
  selector:
    matchLabels:
      app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      terminationGracePeriodSeconds: 5
      nodeSelector:
        disk: ssd
      containers:
      - name: web
        image: skein/demo:v1
        args: [--greet, "hello world"]
        ports:
        - name: http
          containerPort: 8080
        env:
        - name: PORT
          value: "8080"
        - name: NODE
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
        resources:
          requests: {cpu: 100m}
          limits: {cpu: 1, memory: 64Mi}
        readinessProbe:
          httpGet: {path: /healthz, port: http}
          periodSeconds: 2
        livenessProbe:
          exec: {command: [cat, /tmp/alive]}
        securityContext:
          runAsNonRoot: true
          capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
`

// parseOne reads a manifest of one object.
func parseOne(t testing.TB, text string) *Manifest {
	t.Helper()
	list, err := Parse("test.yaml", []byte(text), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 {
		t.Fatalf("got %d objects, want 1", len(list))
	}
	return &list[0]
}

func TestParseFillsInDefaults(t *testing.T) {
	m := parseOne(t, web)
	d := m.Object.(*appsv1.Deployment)
	if d.Namespace != "default" || m.Line != 1 || m.Kind.Singular != "deployment" {
		t.Errorf("got namespace %q, line %d, kind %q", d.Namespace, m.Line, m.Kind.Singular)
	}
	c := &d.Spec.Template.Spec.Containers[0]
	got := fmt.Sprintln(
		*d.Spec.Replicas, *d.Spec.RevisionHistoryLimit, *d.Spec.ProgressDeadlineSeconds, d.Spec.Strategy.Type,
		d.Spec.Strategy.RollingUpdate.MaxSurge, d.Spec.Strategy.RollingUpdate.MaxUnavailable,
		d.Spec.Template.Spec.RestartPolicy, c.ImagePullPolicy, c.Ports[0].Protocol,
		c.Resources.Requests.Cpu(), c.Resources.Requests.Memory(), c.Resources.Limits.Cpu(),
		c.ReadinessProbe.TimeoutSeconds, c.ReadinessProbe.PeriodSeconds, c.ReadinessProbe.FailureThreshold,
		c.ReadinessProbe.SuccessThreshold, c.ReadinessProbe.HTTPGet.Scheme, c.LivenessProbe.PeriodSeconds,
		c.Env[1].ValueFrom.FieldRef.APIVersion,
	)
	want := fmt.Sprintln(3, 10, 600, "RollingUpdate", "25%", "25%", "Always", "IfNotPresent", "TCP",
		"100m", "64Mi", "1", 1, 2, 3, 1, "HTTP", 10, "v1")
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestDefaultTwiceChangesNothing(t *testing.T) {
	m := parseOne(t, web)
	before, err := specOf(m.Object)
	if err != nil {
		t.Fatal(err)
	}
	Default(m.Object)
	after, err := specOf(m.Object)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("was %s\nis  %s", before, after)
	}
}

func TestParseReadsWhatPeopleWrite(t *testing.T) {
	pod := func(name string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {containers: [{name: c, image: a/b:v1}]}\n"
	}
	tests := map[string]struct {
		text string
		want string // kind namespace/name:line, …
	}{
		"one document":        {pod("a"), "Pod default/a:1"},
		"several documents":   {pod("a") + "---\n" + pod("b") + "--- # last\n" + pod("c"), "Pod default/a:1 Pod default/b:6 Pod default/c:11"},
		"comments and blanks": {"# hello\n---\n\n---\n%YAML 1.2\n---\n" + pod("a") + "...\n# bye\n", "Pod default/a:7"},
		"a byte order mark":   {"\ufeff" + pod("a"), "Pod default/a:1"},
		"Windows line ends":   {strings.ReplaceAll(pod("a")+"---\n"+pod("b"), "\n", "\r\n"), "Pod default/a:1 Pod default/b:6"},
		"JSON": {
			`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}` + "\n" +
				`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"y"}}`, "Namespace x:1 Namespace y:2",
		},
		"flow style that is no JSON": {`{apiVersion: v1, kind: Namespace, metadata: {name: x}}`, "Namespace x:1"},
		"a List": {
			"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: x}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: y}}\n",
			"Namespace x:4 Namespace y:5",
		},
		"anchors and merges": {
			"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  labels: &l {a: b}\n  annotations:\n    <<: *l\n    c: d\n", "Namespace x:1",
		},
		"what the cluster wrote": {
			"apiVersion: v1\nkind: Namespace\nmetadata: {name: x, creationTimestamp: null, uid: u, resourceVersion: '7'}\nstatus: {phase: Active}\n", "Namespace x:1",
		},
		"a namespace of its own": {strings.Replace(pod("a"), "{name: a}", "{name: a, namespace: other}", 1), "Pod other/a:1"},
		"emptiness that asks for nothing": {
			strings.Replace(pod("a"), "spec: {", "spec: {volumes: [], affinity: {}, initContainers: null, dnsPolicy: ClusterFirst, hostPID: false, ", 1), "Pod default/a:1",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			list, err := Parse("x.yaml", []byte(tt.text), "default")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range list {
				got = append(got, fmt.Sprintf("%s:%d", m.Key(), m.Line))
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %s, want %s", strings.Join(got, " "), tt.want)
			}
		})
	}
}

func TestQuantitiesAndNumbersAreReadAsKubernetesDoes(t *testing.T) {
	m := parseOne(t, `{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: "a:1",
  resources: {limits: {cpu: 0.5, memory: 1e9}}, readinessProbe: {tcpSocket: {port: 0x50}, periodSeconds: 1_0}}]}}`)
	c := m.Object.(*corev1.Pod).Spec.Containers[0]
	got := fmt.Sprint(c.Resources.Limits.Cpu(), " ", c.Resources.Limits.Memory().Value(), " ", c.ReadinessProbe.TCPSocket.Port.IntVal, " ", c.ReadinessProbe.PeriodSeconds)
	if got != "500m 1000000000 80 10" {
		t.Errorf("got %s", got)
	}
}

// TestManifestErrors holds what people are told, word for word: one fault in
// each manifest, made by a replacement in one that is good.
func TestManifestErrors(t *testing.T) {
	faults := []fault{
		{"replicas: 3", "replcas: 3"},
		{"replicas: 3", "replicas: three"},
		{"replicas: 3", "replicas: 3.5"},
		{"replicas: 3", "replicas: 99999999999"},
		{"replicas: 3", "replicas: -1"},
		{"kind: Deployment", "kind: Deploymnt"},
		{"kind: Deployment", "kind: StatefulSet"},
		{"kind: Deployment", "kind: Node"},
		{"apps/v1", "extensions/v1beta1"},
		{"apiVersion: apps/v1\n", ""},
		{"name: web\n  labels", "name: ../etc/passwd\n  labels"},
		{"name: web\n  labels", "name: Web\n  labels"},
		{"name: web\n  labels", "namespace: default\n  labels"},
		{"tier: front", "tier: [front]"},
		{"tier: front", "tier: 1"},
		{"tier: front", "'no good': x"},
		{"tier: front", "skein.dev/voter: never"},
		{`team: "blue"`, `skein.dev/exclusive: "yes"`},
		{`team: "blue"`, `skein.dev/exclusiv: "true"`},
		{`team: "blue"`, `skein.dev/when-isolated: "wait"`},
		{`team: "blue"`, `{skein.dev/when-isolated: keep, skein.dev/exclusive: "true"}`},
		{"matchLabels:\n      app: web", "matchLabels:\n      app: wob"},
		{"selector:\n    matchLabels:\n      app: web\n", "selector: {}\n"},
		{"selector:\n    matchLabels:\n      app: web\n", "selector: {matchExpressions: [{key: app, operator: Is, values: [web]}]}\n"},
		{"nodeSelector:", "volumes: [{name: x, persistentVolumeClaim: {claimName: y}}]\n      nodeSelector:"},
		{"nodeSelector:", "hostPID: true\n      shareProcessNamespace: true\n      nodeSelector:"},
		{"nodeSelector:", "hostPID: 'false'\n      nodeSelector:"},
		{"nodeSelector:", "runtimeClassName: gvisor\n      nodeSelector:"},
		{"nodeSelector:", "restartPolicy: Never\n      nodeSelector:"},
		{"nodeSelector:", "securityContext: {runAsUser: 0}\n      nodeSelector:"},
		{"terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: -5"},
		{"- name: web\n        image", "- name: web_1\n        image"},
		{"- name: web\n        image", "- image"},
		{"skein/demo:v1", "Skein/Demo:v1"},
		{"image: skein/demo:v1\n", "image:\n"},
		{"args: [--greet, \"hello world\"]", "args: --greet"},
		{"args: [--greet, \"hello world\"]", "args: [--greet, 1]"},
		{"args: [--greet, \"hello world\"]", "args: [--greet, ~]"},
		{"args: [--greet, \"hello world\"]", "args: [\"a\\0b\"]"},
		{"args: [--greet, \"hello world\"]", "stdin: \"yes\""},
		{"args: [--greet, \"hello world\"]", "workingDir: tmp"},
		{"args: [--greet, \"hello world\"]", "imagePullPolicy: Sometimes"},
		{"args: [--greet, \"hello world\"]", "lifecycle: {preStop: {sleep: {seconds: -5}}, postStart: {tcpSocket: {port: 80}}}"},
		{"args: [--greet, \"hello world\"]", "lifecycle: {preStop: {}, stopSignal: HUP}"},
		{"args: [--greet, \"hello world\"]", "restartPolicy: Sometimes"},
		{"args: [--greet, \"hello world\"]", "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]"},
		{"args: [--greet, \"hello world\"]", "restartPolicy: Never\n        restartPolicyRules: [{action: RestartAllContainers}, {exitCodes: {operator: Is, values: [300]}}, {action: Restart, exitCodes: {operator: In}}]"},
		{"args: [--greet, \"hello world\"]", "restartPolicy: Never\n        restartPolicyRules: [{action: Restart, exitCodes: {operator: Is, values: [300]}}, {exitCodes: {operator: In}}, {action: Restart}]"},
		{"args: [--greet, \"hello world\"]", "terminationMessagePolicy: Logs"},
		{"args: [--greet, \"hello world\"]", "terminationMessagePath: tmp/../why"},
		{"args: [--greet, \"hello world\"]", "terminationMessagePath: /proc/self/why"},
		{"terminationGracePeriodSeconds: 5", "activeDeadlineSeconds: 5"},
		{"containers:\n      - name: web", "initContainers: [{name: i, image: a, lifecycle: {preStop: {sleep: {seconds: 1}}}}]\n      containers:\n      - name: web"},
		{"containerPort: 8080", "containerPort: 80800"},
		{"name: http\n", "name: http_port\n"},
		{"- name: PORT", "- name: A=B"},
		{"value: \"8080\"", "value: 8080"},
		{"value: \"8080\"", "valueFrom: {secretKeyRef: {name: a, kye: b}}"},
		{"fieldPath: spec.nodeName", "fieldPath: spec.nodeNam"},
		{"fieldPath: spec.nodeName", "fieldPath: metadata.labels['a b']"},
		{"cpu: 100m", "cpu: 100mm"},
		{"cpu: 100m", "cpu: 2"},
		{"cpu: 100m", "cpu: -1"},
		{"memory: 64Mi", "memory: 64MB"},
		{"memory: 64Mi", "memory: 64"},
		{"memory: 64Mi", "memory: 0"},
		{"memory: 64Mi", "nvidia.com/gpu: 1"},
		{"memory: 64Mi", "hugepages-2Mi: 1Gi"},
		{"port: http", "port: htp"},
		{"port: http", "port: http, host: example.com"},
		{"port: http", "port: http, scheme: FTP"},
		{"exec: {command: [cat, /tmp/alive]}", "exec: {command: []}"},
		{"exec: {command: [cat, /tmp/alive]}", "periodSeconds: 3"},
		{"exec: {command: [cat, /tmp/alive]}", "exec: {command: [a]}\n          tcpSocket: {port: 1}"},
		{"exec: {command: [cat, /tmp/alive]}", "exec: {command: [a]}\n          successThreshold: 2"},
		{"periodSeconds: 2", "periodSeconds: -2"},
		{"runAsNonRoot: true", "runAsNonRoot: yes"},
		{"runAsNonRoot: true", "seccompProfile: {type: Localhost}"},
		{"NET_BIND_SERVICE", "CAP_NET_ADMIN"},
		{"replicas: 3", "strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}"},
		{"replicas: 3", "strategy: {rollingUpdate: {maxSurge: lots}}"},
		{"replicas: 3", "strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}"},
		{"replicas: 3", "strategy: {type: BlueGreen}"},
		{"replicas: 3", "replicas: 3\n  replicas: 4"},
		{"replicas: 3", "\treplicas: 3"},
		{"replicas: 3", "replicas: !!python/object 3"},
		{"replicas: 3", "replicas: *x"},
		{"metadata:\n  name", "metadata: &m\n  <<: 7\n  name"},
	}
	faulty(t, "errors.txt", web, faults)
}

// A fault is a replacement in a manifest that makes it a wrong one.
type fault struct{ old, new string }

// faulty keeps in a golden file what is told of each fault.
func faulty(t *testing.T, file, good string, faults []fault) {
	t.Helper()
	var b strings.Builder
	for _, f := range faults {
		if !strings.Contains(good, f.old) {
			t.Fatalf("%q is not in the manifest", f.old)
		}
		text := strings.Replace(good, f.old, f.new, 1)
		_, err := Parse("web.yaml", []byte(text), "")
		fmt.Fprintf(&b, "# %s\n", strings.ReplaceAll(f.new, "\n", `\n`))
		var m *ManifestError
		if !errors.As(err, &m) {
			t.Errorf("%q: got %v, want a ManifestError", f.new, err)
			continue
		}
		fmt.Fprintf(&b, "%s\n", m.Error())
		if m.Hint != "" {
			fmt.Fprintf(&b, "hint: %s\n", m.Hint)
		}
	}
	golden(t, file, b.String())
}

func TestParseTellsTenFaults(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n")
	for i := range 13 {
		fmt.Fprintf(&b, "  wrong%c: x\n", 'a'+i)
	}
	_, err := Parse("x.yaml", []byte(b.String()), "")
	var m *ManifestError
	if !errors.As(err, &m) {
		t.Fatal(err)
	}
	if len(m.More) != 9 || m.Unsaid != 3 || m.Line != 5 || m.Path != "spec.wronga" {
		t.Errorf("got %d more, %d unsaid, line %d, path %s", len(m.More), m.Unsaid, m.Line, m.Path)
	}
	if lines := strings.Split(m.Error(), "\n"); len(lines) != 11 || lines[10] != "and 3 more" {
		t.Errorf("got:\n%s", m.Error())
	}
}

func TestParseFindsFaultsInEveryDocument(t *testing.T) {
	_, err := Parse("x.yaml", []byte("kind: Pod\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\njust text\n---\napiVersion: v1\nkind: Namespace\nmetadata: {namespace: b, name: c}\n"), "")
	want := `x.yaml:1: apiVersion: is missing
x.yaml:7: namespace "a" is given twice, first on line 3
x.yaml:11: want an object with apiVersion and kind, got the string "just text"
x.yaml:15: namespace "c": metadata.namespace: a namespace belongs to no namespace`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestLimitsHoldBeforeDecoding(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	tests := map[string]struct{ text, want string }{
		"the file":           {strings.Repeat("#", maxManifest+1), "is larger than 4 MB"},
		"a document":         {"a: " + strings.Repeat("x", maxDocument), "is a document larger than 2 MB"},
		"a JSON document":    {`{"a":"` + strings.Repeat("x", maxDocument) + `"}`, "is a document larger than 2 MB"},
		"documents":          {strings.Repeat("---\na: b\n", maxDocuments+1), "holds more than 500 documents"},
		"JSON documents":     {strings.Repeat("{}\n", maxDocuments+1), "holds more than 500 documents"},
		"depth":              {"a: " + strings.Repeat("[", 60) + strings.Repeat("]", 60), "is nested more than 50 deep"},
		"JSON depth":         {strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60), "is nested more than 50 deep"},
		"brackets":           {"a: " + strings.Repeat("[", 200_000), "holds more than 20000 values"},
		"values":             {"a: [" + strings.Repeat("1,", maxNodes) + "]", "holds more than 20000 values"},
		"JSON values":        {"[" + strings.Repeat("1,", maxNodes) + "1]", "holds more than 20000 values"},
		"a billion laughs":   {bomb, "holds more than 20000 values"},
		"an alias of itself": {"a: &a [*a]", "is nested more than 50 deep"},
		"what follows":       {"{a: b}\n{c: d}\n", "cannot be read as JSON"},
		"what follows YAML":  {"a: b\n...\nc: d\n", "is missing"},
		"no text":            {"a: \xff", "is no UTF-8 text"},
		"nothing":            {"# nothing\n", "holds no object"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.yaml", []byte(tt.text), "")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %.200v, want %s", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(web))
	f.Add([]byte(front))
	f.Add([]byte(guard))
	f.Add([]byte(edge))
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}]}`))
	f.Add([]byte("a: &a [*a]\n---\n<<: {a: b}\n"))
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: a:1, resources: {limits: {cpu: 1e-9}}}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Parse("f", data, "")
		if (err == nil) != (len(list) > 0) {
			t.Fatalf("%d objects and %v", len(list), err)
		}
		for _, m := range list { // what was accepted can be stored and read again
			obj, err := m.Create("u", testNow)
			if err != nil {
				var refused *ManifestError
				if errors.As(err, &refused) || m.expect != 0 {
					continue
				}
				t.Fatal(err)
			}
			if _, err := Encode(obj); err != nil {
				t.Fatal(err)
			}
			if err := Validate(m.Object); err != nil {
				t.Fatal(err)
			}
		}
	})
}
