package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"
	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

const annotationPublish = "skein.dev/publish"

func (s *session) exposeCommand() *cli.Command {
	return &cli.Command{
		Name:      "expose",
		Category:  groupChange,
		Usage:     "give Pods one name and address by a Service, and wait until it leads to one",
		ArgsUsage: "deploy/NAME | pod/NAME",
		UsageText: `skein expose deploy/web                            the port that its container names, as web:PORT
skein expose deploy/web --port 80                  web:80, whatever its container's port is
skein expose deploy/web --port 80 --type NodePort  and a port of every node
skein expose deploy/web --port 80 --publish 8080   in a lab: http://127.0.0.1:8080 of this machine
skein expose deploy/dns --port 53 --protocol UDP --name resolver
skein expose deploy/web --port 80 --dry-run -o yaml`,
		Description: "The Service selects the Pods by the labels that the Deployment does, so it leads to those of later versions too. Without --target-port it leads to the container's port of the same number, or to the only one that there is.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the Service; without it, that of what is exposed"},
			&cli.IntFlag{Name: "port", Aliases: []string{"p"}, Usage: "`PORT` of the Service; without it, the container's"},
			&cli.StringFlag{Name: "target-port", Usage: "`PORT` of the Pods that it leads to, by number or name"},
			&cli.StringFlag{Name: "protocol", Usage: "`PROTOCOL` TCP or UDP; without it, the container's"},
			&cli.StringFlag{Name: "type", Usage: "`TYPE` ClusterIP, or NodePort to be reached from outside"},
			&cli.IntFlag{Name: "node-port", Usage: "the `PORT` of every node, from 30000 to 32767; without it one is chosen"},
			&cli.StringFlag{Name: "publish", Usage: "in a lab: `PORT[:PORT]` of its machine's loopback address, with that of the Service"},
			&cli.BoolFlag{Name: "dry-run", Usage: "check it, change nothing; with -o print the manifest"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "with --dry-run: `FORMAT` yaml or json"},
		}, waitFlags()...),
		Action: s.expose,
	}
}

// The parts of a Service that expose fills in, in the order in which people write
// them.
type (
	service struct {
		APIVersion string      `json:"apiVersion"`
		Kind       string      `json:"kind"`
		Metadata   serviceMeta `json:"metadata"`
		Spec       serviceSpec `json:"spec"`
	}
	serviceMeta struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	serviceSpec struct {
		Type     string         `json:"type,omitempty"`
		Selector map[string]any `json:"selector"`
		Ports    []servicePort  `json:"ports"`
	}
	servicePort struct {
		Protocol   string `json:"protocol,omitempty"`
		Port       int    `json:"port"`
		TargetPort any    `json:"targetPort"`
		NodePort   int    `json:"nodePort,omitempty"`
	}
)

func (s *session) expose(c *cli.Context) error {
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	refs, err := namedRefs(c, c.Args().Slice(), cluster.namespace)
	if err != nil {
		return err
	}
	if len(refs) > 1 {
		return usageError("expose one after the other", "%s takes one object", c.Command.HelpName)
	}
	object, _, err := cluster.read(c.Context, refs[0])
	if err != nil {
		return err
	}
	document, err := s.exposeManifest(c, refs[0], object)
	if err != nil {
		return err
	}
	if format := c.String("output"); format != "" {
		return s.printManifest(c, document, format)
	}
	return s.exposed(c, cluster, document)
}

// exposed creates the Service, waits for it and tells where it is.
func (s *session) exposed(c *cli.Context, cluster *cluster, document []byte) error {
	wait, err := s.newWaiting(c, cluster)
	if err != nil {
		return err
	}
	response, err := cluster.Apply(c.Context, &skeinv1.ApplyRequest{
		Manifest: document, Filename: "expose " + c.Args().First(), Namespace: cluster.namespace, CreateOnly: true, DryRun: c.Bool("dry-run"),
	})
	var answer *connect.Error
	if errors.As(err, &answer) && answer.Code() == connect.CodeAlreadyExists {
		f := explain(err)
		if f.hint == "" {
			f.hint = "give another --name, or change the one that there is with \"skein apply\""
		}
		return f
	}
	if err != nil {
		return err
	}
	for _, applied := range response.GetApplied() {
		note := ""
		if c.Bool("dry-run") {
			note = " (dry run)"
		}
		fmt.Fprintf(s.stdout, "%s exposed%s\n", clean(shown(applied.GetObject())), note)
		if c.Bool("dry-run") {
			continue
		}
		applied.Awaitable = true
		if err := wait.all(c.Context, []*skeinv1.Applied{applied}, false); err != nil {
			return err
		}
		if !c.Bool("quiet") {
			if err := s.tellAddress(c.Context, cluster, applied.GetObject()); err != nil {
				return err
			}
		}
	}
	return nil
}

// tellAddress says where a Service is reached.
func (s *session) tellAddress(ctx context.Context, cluster *cluster, ref *skeinv1.ObjectRef) error {
	object, _, err := cluster.read(ctx, ref)
	if err != nil {
		return err
	}
	ports, _ := field(object, "spec", "ports").([]any)
	for _, p := range ports {
		number, nodePort := portNumber(field(p, "port")), portNumber(field(p, "nodePort"))
		text := fmt.Sprintf("%s.%s.svc:%d", ref.GetName(), ref.GetNamespace(), number)
		if protocol, _ := field(p, "protocol").(string); protocol == "UDP" {
			text += " (UDP)"
		}
		if nodePort > 0 {
			text += fmt.Sprintf(", any node on port %d", nodePort)
		}
		fmt.Fprintln(s.stderr, clean(text))
	}
	if published, _ := field(object, "metadata", "annotations", annotationPublish).(string); published != "" {
		for one := range strings.SplitSeq(published, ",") {
			host, _, _ := strings.Cut(strings.TrimSpace(one), ":")
			fmt.Fprintln(s.stderr, clean("127.0.0.1:"+host+" of the lab's machine"))
		}
	}
	return nil
}

// exposeManifest is the Service that the flags describe.
func (s *session) exposeManifest(c *cli.Context, ref *skeinv1.ObjectRef, object map[string]any) ([]byte, error) {
	labels, err := selectorOf(ref, object)
	if err != nil {
		return nil, err
	}
	port, err := exposedPort(c, shown(ref), declaredPorts(object))
	if err != nil {
		return nil, err
	}
	out := service{
		APIVersion: "v1", Kind: "Service", Metadata: serviceMeta{Name: ref.GetName(), Namespace: c.String("namespace")},
		Spec: serviceSpec{Type: c.String("type"), Selector: labels, Ports: []servicePort{port}},
	}
	if name := c.String("name"); name != "" {
		out.Metadata.Name = name
	}
	if port.NodePort > 0 && out.Spec.Type == "" {
		out.Spec.Type = "NodePort"
	}
	if publish := c.String("publish"); publish != "" {
		out.Metadata.Annotations = map[string]string{annotationPublish: publish}
	}
	document, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode the service: %w", err)
	}
	return document, nil
}

// selectorOf is what Pods are known by: those of a Deployment, or a Pod's labels.
func selectorOf(ref *skeinv1.ObjectRef, object map[string]any) (map[string]any, error) {
	kind, _ := field(object, "kind").(string)
	switch kind {
	case "Pod":
		labels, _ := field(object, "metadata", "labels").(map[string]any)
		if len(labels) == 0 {
			return nil, usageError(fmt.Sprintf("skein label %s app=%s", shown(ref), ref.GetName()), "%s has no labels to be selected by", shown(ref))
		}
		return labels, nil
	case "Deployment":
		labels, _ := field(object, "spec", "selector", "matchLabels").(map[string]any)
		if others, _ := field(object, "spec", "selector", "matchExpressions").([]any); len(others) > 0 || len(labels) == 0 {
			return nil, usageError("write a manifest with labels of its template as the selector", "%s selects by expressions, a Service by labels alone", shown(ref))
		}
		return labels, nil
	}
	return nil, usageError("name deploy/NAME or pod/NAME", "%s has no Pods of its own", shown(ref))
}

// A declared port is one that a container says it listens on.
type declared struct {
	number         int
	name, protocol string
}

func declaredPorts(object map[string]any) []declared {
	spec := field(object, "spec", "template", "spec")
	if spec == nil {
		spec = field(object, "spec") // a Pod has no template
	}
	var out []declared
	containers, _ := field(spec, "containers").([]any)
	for _, container := range containers {
		ports, _ := field(container, "ports").([]any)
		for _, p := range ports {
			d := declared{number: portNumber(field(p, "containerPort")), protocol: "TCP"}
			d.name, _ = field(p, "name").(string)
			if protocol, _ := field(p, "protocol").(string); protocol != "" {
				d.protocol = protocol
			}
			if d.protocol == "TCP" || d.protocol == "UDP" {
				out = append(out, d)
			}
		}
	}
	return out
}

// portNumber is a number as [cluster.read] has it, 0 if there is none.
func portNumber(value any) int {
	number, _ := value.(json.Number)
	n, _ := strconv.Atoi(number.String())
	return n
}

// exposedPort joins what the flags say with the ports that containers declare.
func exposedPort(c *cli.Context, subject string, known []declared) (servicePort, error) {
	out := servicePort{Port: c.Int("port"), Protocol: strings.ToUpper(c.String("protocol")), NodePort: c.Int("node-port")}
	if c.IsSet("port") && (out.Port < 1 || out.Port > 65535) {
		return out, usageError("", "--port %d: want a number up to 65535", out.Port)
	}
	var fit []declared
	var numbers []string
	for _, d := range known {
		if out.Protocol == "" || d.protocol == out.Protocol {
			fit = append(fit, d)
			numbers = append(numbers, strconv.Itoa(d.number))
		}
	}
	target, err := targetPort(c.String("target-port"), out.Port, fit)
	switch {
	case err == nil:
	case len(fit) == 0:
		return out, usageError("say which: --port 80 --target-port 8080", "%s declares no port", subject)
	default:
		return out, usageError("say which with --target-port: "+strings.Join(numbers, ", "), "%s: %s", subject, err)
	}
	if out.Port == 0 {
		out.Port = target.number
	}
	if out.Protocol == "" && target.protocol != "TCP" {
		out.Protocol = target.protocol
	}
	out.TargetPort = target.number
	if text := c.String("target-port"); target.name != "" && text == target.name {
		out.TargetPort = text
	}
	return out, nil
}

// targetPort is the port of the Pods that is meant by a number, a name, or nothing.
func targetPort(text string, port int, known []declared) (declared, error) {
	n, err := strconv.Atoi(text)
	byNumber := err == nil
	if text != "" && byNumber && (n < 1 || n > 65535) {
		return declared{}, fmt.Errorf("--target-port %s is no port", text)
	}
	for _, d := range known {
		switch {
		case text == "" && (port == 0 || d.number == port), text != "" && !byNumber && d.name == text, byNumber && d.number == n:
			return d, nil
		}
	}
	switch {
	case byNumber:
		return declared{number: n, protocol: "TCP"}, nil
	case text != "" && port > 0: // the Pods of a later version may have it
		return declared{number: port, name: text, protocol: "TCP"}, nil
	case text != "":
		return declared{}, fmt.Errorf("it declares no port %q, so say --port too", text)
	case len(known) == 1:
		return known[0], nil
	case port > 0 && len(known) == 0:
		return declared{number: port, protocol: "TCP"}, nil
	case port > 0:
		return declared{}, fmt.Errorf("none of its ports is %d", port)
	}
	return declared{}, errors.New("it declares no port")
}
