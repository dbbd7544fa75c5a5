package cli

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) ctxCommand() *cli.Command {
	return &cli.Command{
		Name:     "ctx",
		Aliases:  []string{"context"},
		Category: groupCluster,
		Usage:    "the clusters that you can reach, and as whom",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list them",
				UsageText: "skein ctx ls",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "no-headers", Usage: "rows alone"},
					&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "names alone"},
				},
				Action: s.listContexts,
			},
			{
				Name: "use", ArgsUsage: "[NAME]", Usage: "select the one to talk to from now on, or its namespace",
				UsageText: `skein ctx use prod
skein ctx use -n team-a               another namespace where no -n is given`,
				Action: s.useContext,
			},
			{
				Name: "show", ArgsUsage: "[NAME]", Usage: "the one in use, or another",
				UsageText: "skein ctx show",
				Action:    s.showContext,
			},
			{
				Name: "add", ArgsUsage: "[NAME] ACCESS|- | NAME --server URL --token TOKEN --ca FILE", Usage: "add one",
				UsageText: `skein ctx add prod skeinctx1-…        the line that "skein token create --role" printed
skein ctx add prod -                  the same, from standard input
skein ctx add prod --server https://192.0.2.10:7373 --token TOKEN --ca ca.pem`,
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "replace one of that name"}},
				Action: s.addContext,
			},
			{
				Name: "rm", Aliases: []string{"remove"}, ArgsUsage: "NAME…", Usage: "forget one",
				UsageText: "skein ctx rm old",
				Action:    s.removeContexts,
			},
		},
	}
}

func (s *session) listContexts(c *cli.Context) error {
	if c.Args().Present() {
		return tooMany(c, c.Args().First())
	}
	config, err := loadConfig()
	if err != nil {
		return err
	}
	var rows [][]string
	for _, one := range config.GetContexts() {
		current := ""
		if one.GetName() == config.GetCurrent() {
			current = "*"
		}
		if c.Bool("quiet") {
			rows = append(rows, []string{one.GetName()})
			continue
		}
		rows = append(rows, []string{current, one.GetName(), one.GetServer(), namespaceOr(one.GetNamespace())})
	}
	if len(rows) == 0 {
		fmt.Fprintln(s.stderr, "no contexts; add one with \"skein ctx add\"")
		return nil
	}
	g := &grid{columns: []string{"CURRENT", "NAME", "SERVER", "NAMESPACE"}, now: s.now}
	return g.write(s.stdout, !c.Bool("no-headers") && !c.Bool("quiet"), rows)
}

func namespaceOr(namespace string) string {
	if namespace == "" {
		return defaultNamespace
	}
	return namespace
}

func (s *session) useContext(c *cli.Context) error {
	if c.NArg() > 1 {
		return tooMany(c, c.Args().Get(1))
	}
	config, err := loadConfig()
	if err != nil {
		return err
	}
	name := c.Args().First()
	if name == "" {
		if name = config.GetCurrent(); name == "" || !c.IsSet("namespace") {
			return missing(c, "a name")
		}
	}
	found, ok := findContext(config, name)
	if !ok {
		return noSuchContext(config, name)
	}
	config.Current = name
	if c.IsSet("namespace") {
		found.Namespace = c.String("namespace")
	}
	if err := saveConfig(config); err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "using context %s, namespace %s\n", name, namespaceOr(found.GetNamespace()))
	return nil
}

func (s *session) showContext(c *cli.Context) error {
	if c.NArg() > 1 {
		return tooMany(c, c.Args().Get(1))
	}
	config, err := loadConfig()
	if err != nil {
		return err
	}
	name := c.Args().First()
	if name == "" {
		name = c.String("context")
	}
	if name == "" {
		name = config.GetCurrent()
	}
	if name == "" {
		if _, err := os.Stat(defaultSocket); err == nil {
			fmt.Fprintf(s.stdout, "no context is selected; the agent on this machine answers at unix://%s\n", defaultSocket)
			return nil
		}
		return failed("skein ctx use NAME; skein ctx ls", "no context is selected")
	}
	found, ok := findContext(config, name)
	if !ok {
		return noSuchContext(config, name)
	}
	path, err := configPath()
	if err != nil {
		return err
	}
	kept := func(text string) string {
		if text == "" {
			return "none"
		}
		return "kept in " + path
	}
	rows := [][]string{
		{"name:", found.GetName()},
		{"server:", found.GetServer()},
		{"namespace:", namespaceOr(found.GetNamespace())},
		{"token:", kept(found.GetToken())},
		{"ca:", kept(found.GetCaPem())},
	}
	return (&grid{now: s.now}).write(s.stdout, false, rows)
}

func (s *session) addContext(c *cli.Context) error {
	added, err := s.newContext(c)
	if err != nil {
		return err
	}
	if c.IsSet("namespace") {
		added.Namespace = c.String("namespace")
	}
	config, err := loadConfig()
	if err != nil {
		return err
	}
	if _, there := findContext(config, added.GetName()); there {
		if !c.Bool("force") {
			return usageError("another name, or --force to replace it", "there is a context %q already", added.GetName())
		}
		config.Contexts = slices.DeleteFunc(config.GetContexts(), func(one *skeinv1.ClientContext) bool { return one.GetName() == added.GetName() })
	}
	config.Contexts = append(config.Contexts, added)
	if config.GetCurrent() == "" {
		config.Current = added.GetName()
	}
	if err := saveConfig(config); err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "context %s added\n", added.GetName())
	if config.GetCurrent() != added.GetName() {
		fmt.Fprintf(s.stderr, "hint: skein ctx use %s\n", added.GetName())
	}
	return nil
}

// newContext reads the context to add out of an access line, or out of flags.
func (s *session) newContext(c *cli.Context) (*skeinv1.ClientContext, error) {
	args := c.Args().Slice()
	last := ""
	if len(args) > 0 {
		last = args[len(args)-1]
	}
	if last == "-" || strings.HasPrefix(last, accessPrefix) {
		return s.accessContext(c, args[:len(args)-1], last)
	}
	if len(args) == 0 || c.String("server") == "" {
		return nil, missing(c, "an access line, or a name and --server")
	}
	if len(args) > 1 {
		return nil, tooMany(c, args[1])
	}
	added := &skeinv1.ClientContext{Name: args[0], Server: c.String("server"), Token: c.String("token")}
	if strings.HasPrefix(added.GetServer(), "unix://") {
		return added, nil
	}
	address, err := serverAddress(added.GetServer())
	if err != nil {
		return nil, err
	}
	added.Server = "https://" + address
	if c.String("ca") == "" || added.GetToken() == "" {
		return nil, usageError("an access line holds all of it: skein token create --role admin", "%s needs --token, and --ca with the cluster's CA certificate", c.Command.HelpName)
	}
	pem, err := os.ReadFile(c.String("ca"))
	if err != nil {
		return nil, usageError("", "read the CA: %s", err)
	}
	added.CaPem = string(pem)
	_, _, err = newTransport(added) // refuses what cannot be trusted or reached
	return added, err
}

func (s *session) accessContext(c *cli.Context, names []string, word string) (*skeinv1.ClientContext, error) {
	if len(names) > 1 {
		return nil, tooMany(c, names[1])
	}
	if word == "-" {
		data, err := io.ReadAll(io.LimitReader(s.stdin, 1<<20))
		if err != nil {
			return nil, fmt.Errorf("read the access line: %w", err)
		}
		fields := strings.Fields(string(data)) // "skein ctx add skeinctx1-…" as it was printed will do
		if len(fields) > 0 {
			word = fields[len(fields)-1]
		}
	}
	added, err := unpackAccess(word)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		added.Name = names[0]
	}
	if server := c.String("server"); server != "" { // reached at another address from here
		address, err := serverAddress(server)
		if err != nil {
			return nil, err
		}
		added.Server = "https://" + address
	}
	if added.GetName() == "" {
		u, err := url.Parse(added.GetServer())
		if err != nil {
			return nil, usageError("", "%q is no address of an API", added.GetServer())
		}
		added.Name = u.Hostname()
	}
	return added, nil
}

func (s *session) removeContexts(c *cli.Context) error {
	if !c.Args().Present() {
		return missing(c, "a name")
	}
	config, err := loadConfig()
	if err != nil {
		return err
	}
	for _, name := range c.Args().Slice() {
		if _, ok := findContext(config, name); !ok {
			return noSuchContext(config, name)
		}
	}
	for _, name := range c.Args().Slice() {
		config.Contexts = slices.DeleteFunc(config.GetContexts(), func(one *skeinv1.ClientContext) bool { return one.GetName() == name })
		if config.GetCurrent() == name {
			config.Current = ""
		}
		fmt.Fprintf(s.stdout, "context %s removed\n", name)
	}
	return saveConfig(config)
}
