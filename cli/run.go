package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"
	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Category:  groupChange,
		Usage:     "run an image as a Deployment, and wait until it is ready",
		ArgsUsage: "NAME --image IMAGE [-- COMMAND]",
		UsageText: `skein run web --image skein/demo:v1 --replicas 3         three Pods labelled app=web
skein run web --image skein/demo:v1 --port 8080 --env COLOR=blue
skein run once --image busybox -- sleep 3600             a command of its own
skein run sh -it --rm --image busybox -- sh              one Pod, at this terminal, deleted when it ends
skein run web --image skein/demo:v1 --dry-run -o yaml    the manifest, to keep and edit`,
		Description: "The Deployment, and its Pods, are labelled app=NAME. What follows -- are the arguments of the image's entrypoint; with --command they replace it. No probe is set, with --port neither: a Pod counts as ready as soon as its process runs. For more, add one to the manifest that --dry-run -o yaml prints, and apply that.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "image", Usage: "the `IMAGE` to run (required)"},
			&cli.IntFlag{Name: "replicas", Value: 1, Usage: "`N` Pods"},
			&cli.StringSliceFlag{Name: "port", Aliases: []string{"p"}, Usage: "`PORT[/tcp|udp]` that it listens on; may be repeated"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`NAME=VALUE`, or NAME to take yours; may be repeated"},
			&cli.StringFlag{Name: "cpu", Usage: "request and limit of processor time: `CPUS` such as 500m or 2"},
			&cli.StringFlag{Name: "memory", Aliases: []string{"m"}, Usage: "request and limit of memory: `SIZE` such as 256Mi"},
			&cli.BoolFlag{Name: "stdin", Aliases: []string{"i"}, Usage: "one Pod that never restarts, in place of a Deployment; pass standard input on"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "the same, at a terminal"},
			&cli.BoolFlag{Name: "rm", Usage: "the same, and delete it when it has ended"},
			&cli.BoolFlag{Name: "command", Usage: "what follows -- replaces the image's entrypoint"},
			&cli.BoolFlag{Name: "dry-run", Usage: "check it, change nothing; with -o print the manifest"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "with --dry-run: `FORMAT` yaml or json"},
		}, waitFlags()...),
		Action: s.runImage,
	}
}

// nameOfRun is what can name a Deployment, a label and a container alike.
var nameOfRun = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (s *session) runImage(c *cli.Context) error {
	if !c.Args().Present() {
		return missing(c, "a name")
	}
	if c.NArg() > 1 {
		return usageError("put the command behind --: "+usageLine(c.Command), "%s has no use for %q", c.Command.HelpName, c.Args().Get(1))
	}
	if c.String("image") == "" {
		return missing(c, "an --image")
	}
	if name := c.Args().First(); !nameOfRun.MatchString(name) {
		return usageError("", "%q is no name: want up to 63 lower-case letters, digits and -, a letter or digit first and last", name)
	}
	if attaches(c) {
		return s.runAttached(c)
	}
	document, err := s.runManifest(c)
	if err != nil {
		return err
	}
	if format := c.String("output"); format != "" {
		return s.printManifest(c, document, format)
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	err = s.applyManifest(c, cluster, &manifest{data: document}, &skeinv1.ApplyRequest{
		Manifest: document, Filename: "run " + name, Namespace: cluster.namespace, CreateOnly: true, DryRun: c.Bool("dry-run"),
	})
	var answer *connect.Error
	if errors.As(err, &answer) && answer.Code() == connect.CodeAlreadyExists {
		f := explain(err)
		if f.hint == "" {
			f.hint = fmt.Sprintf("another image: skein set image deploy/%s %s=%s; more Pods: skein scale deploy/%s --replicas N", name, name, c.String("image"), name)
		}
		return f
	}
	return err
}

// The parts of a Deployment that run fills in, in the order in which people
// write them.
type (
	meta struct {
		Name      string            `json:"name,omitempty"`
		Namespace string            `json:"namespace,omitempty"`
		Labels    map[string]string `json:"labels,omitempty"`
	}
	deployment struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   meta           `json:"metadata"`
		Spec       deploymentSpec `json:"spec"`
	}
	deploymentSpec struct {
		Replicas int         `json:"replicas"`
		Selector selector    `json:"selector"`
		Template podTemplate `json:"template"`
	}
	selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	}
	podTemplate struct {
		Metadata meta    `json:"metadata"`
		Spec     podSpec `json:"spec"`
	}
	podSpec struct {
		Containers []container `json:"containers"`
	}
	container struct {
		Name      string     `json:"name"`
		Image     string     `json:"image"`
		Command   []string   `json:"command,omitempty"`
		Args      []string   `json:"args,omitempty"`
		Ports     []port     `json:"ports,omitempty"`
		Env       []variable `json:"env,omitempty"`
		Resources *resources `json:"resources,omitempty"`
	}
	port struct {
		ContainerPort int    `json:"containerPort"`
		Protocol      string `json:"protocol,omitempty"`
	}
	variable struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	resources struct {
		Requests map[string]string `json:"requests"`
		Limits   map[string]string `json:"limits"`
	}
)

// runContainer is the container that the flags describe.
func (s *session) runContainer(c *cli.Context) (container, error) {
	name := c.Args().First()
	main := container{Name: name, Image: c.String("image")}
	if c.Bool("command") {
		main.Command = s.trailing
	} else {
		main.Args = s.trailing
	}
	var err error
	if main.Ports, err = parsePorts(c.StringSlice("port")); err != nil {
		return main, err
	}
	if main.Env, err = parseEnv(c.StringSlice("env")); err != nil {
		return main, err
	}
	amounts := map[string]string{}
	for _, resource := range []string{"cpu", "memory"} {
		if amount := c.String(resource); amount != "" {
			amounts[resource] = amount
		}
	}
	if len(amounts) > 0 {
		main.Resources = &resources{Requests: amounts, Limits: amounts}
	}
	return main, nil
}

func (s *session) runManifest(c *cli.Context) ([]byte, error) {
	name := c.Args().First()
	main, err := s.runContainer(c)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{"app": name}
	document, err := json.Marshal(deployment{
		APIVersion: "apps/v1", Kind: "Deployment",
		Metadata: meta{Name: name, Namespace: c.String("namespace"), Labels: labels},
		Spec: deploymentSpec{
			Replicas: c.Int("replicas"),
			Selector: selector{MatchLabels: labels},
			Template: podTemplate{Metadata: meta{Labels: labels}, Spec: podSpec{Containers: []container{main}}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encode the deployment: %w", err)
	}
	return document, nil
}

func parsePorts(texts []string) ([]port, error) {
	var ports []port
	for _, text := range texts {
		number, protocol, _ := strings.Cut(text, "/")
		n, err := strconv.Atoi(number)
		protocol = strings.ToUpper(protocol)
		if err != nil || n < 1 || n > 65535 || protocol != "" && protocol != "TCP" && protocol != "UDP" {
			return nil, usageError("", "--port %q: want a number up to 65535, with /udp where it is not TCP", text)
		}
		ports = append(ports, port{ContainerPort: n, Protocol: protocol})
	}
	return ports, nil
}

func parseEnv(texts []string) ([]variable, error) {
	var variables []variable
	for _, text := range texts {
		name, value, given := strings.Cut(text, "=")
		if !given {
			value, given = os.LookupEnv(name)
		}
		if name == "" || !given {
			return nil, usageError("", "--env %q: want NAME=VALUE, or the NAME of a variable that is set here", text)
		}
		variables = append(variables, variable{Name: name, Value: value})
	}
	return variables, nil
}

// printManifest prints what run would send.
func (s *session) printManifest(c *cli.Context, document []byte, format string) error {
	if !c.Bool("dry-run") {
		return usageError("add --dry-run", "-o %s prints the manifest and runs nothing", format)
	}
	var err error
	switch format {
	case "json":
		document, err = indentJSON(document)
	case "yaml":
		document, err = yamlOf(document)
	default:
		return usageError("", "there is no output format %q here: want yaml or json", format)
	}
	if err != nil {
		return err
	}
	_, err = s.stdout.Write(document)
	return err
}

// yamlOf writes JSON as YAML, its keys in their order.
func yamlOf(document []byte) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(document, &node); err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	blockStyle(&node)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(&node), encoder.Close()); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return out.Bytes(), nil
}

// blockStyle drops JSON's brackets, and quotes where the text stays text
// without them.
func blockStyle(node *yaml.Node) {
	node.Style = 0
	for _, child := range node.Content {
		blockStyle(child)
	}
}
