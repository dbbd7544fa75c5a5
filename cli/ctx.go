package cli

import (
	"fmt"
	"net"
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
				Name: "add", ArgsUsage: "[NAME] --server URL --token TOKEN", Usage: "add one, named after its server where no name is given",
				UsageText: `skein ctx add --server https://192.0.2.10:7373 --token skeinp1-…    as "skein token create --role" printed it
skein ctx add prod --server https://192.0.2.10:7373 --token TOKEN --ca ca.pem
skein ctx add here --server unix:///run/skein/skein.sock`,
				Description: "A token names the CA of its cluster, so that no other can pass for it; --ca is for those that do not.",
				Flags:       []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "replace one of that name"}},
				Action:      s.addContext,
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
	ca := kept(found.GetCaPem())
	if _, named := pinOf(found.GetToken()); named && found.GetCaPem() == "" {
		ca = "the one that the token names"
	}
	rows := [][]string{
		{"name:", found.GetName()},
		{"server:", found.GetServer()},
		{"namespace:", namespaceOr(found.GetNamespace())},
		{"token:", kept(found.GetToken())},
		{"ca:", ca},
	}
	return (&grid{now: s.now}).write(s.stdout, false, rows)
}

func (s *session) addContext(c *cli.Context) error {
	added, err := newContext(c)
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

// newContext makes the context that arguments and flags describe. Nothing is sent
// anywhere yet.
func newContext(c *cli.Context) (*skeinv1.ClientContext, error) {
	if c.NArg() > 1 {
		return nil, tooMany(c, c.Args().Get(1))
	}
	added := &skeinv1.ClientContext{Name: c.Args().First(), Server: c.String("server"), Token: c.String("token")}
	if added.GetServer() == "" {
		return nil, missing(c, "--server")
	}
	if path, ok := strings.CutPrefix(added.GetServer(), "unix://"); ok {
		if added.GetName() == "" {
			added.Name = strings.Trim(path, "/")
		}
		return added, nil
	}
	address, err := serverAddress(added.GetServer())
	if err != nil {
		return nil, err
	}
	added.Server = "https://" + address
	if added.GetToken() == "" {
		return nil, missing(c, "--token")
	}
	if added.GetName() == "" {
		if added.Name, _, err = net.SplitHostPort(address); err != nil {
			return nil, usageError("", "%q is no address of an API", address)
		}
	}
	if file := c.String("ca"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, usageError("", "read the CA: %s", err)
		}
		added.CaPem = string(pem)
	}
	_, err = trust(added.GetServer(), added.GetCaPem(), added.GetToken())
	return added, err
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
