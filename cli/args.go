package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// An invocation is a command line taken apart. urfave/cli stops looking for
// flags at the first argument; people who know kubectl write them anywhere.
type invocation struct {
	path     []*cli.Command // from the verb down
	globals  []string       // "--name=value"
	flags    []string       // of the last command in path
	args     []string
	trailing []string // behind "--", for verbs that run a program
	help     bool
}

func (i *invocation) leaf() *cli.Command { return i.path[len(i.path)-1] }

// name is the verb as typed: "skein node drain".
func (i *invocation) name() string { return commandName(i.path) }

func commandName(path []*cli.Command) string {
	name := "skein"
	for _, c := range path {
		name += " " + c.Name
	}
	return name
}

// argv is the same command line in the order that urfave/cli reads.
func (i *invocation) argv() []string {
	argv := append([]string{"skein"}, i.globals...)
	for _, c := range i.path {
		argv = append(argv, c.Name)
	}
	if len(i.path) == 0 {
		return argv
	}
	argv = append(argv, i.flags...)
	return append(append(argv, "--"), i.args...)
}

// programAfter says of verbs that run a program after how many arguments its
// words begin, although no "--" was written; -1: only behind "--".
var programAfter = map[string]int{"skein exec": 1, "skein run": -1}

// parse takes a command line apart. What it does not know is a usage error
// that names the nearest word.
func parse(app *cli.App, args []string) (*invocation, error) {
	p := &parser{app: app, inv: &invocation{}, globals: flagTable(app.Flags), left: args}
	for len(p.left) > 0 {
		arg := p.left[0]
		p.left = p.left[1:]
		if err := p.take(arg); err != nil {
			return p.inv, err
		}
	}
	if len(p.inv.path) == 0 {
		p.inv.help = true // "skein" alone explains itself
	}
	return p.inv, nil
}

type parser struct {
	app     *cli.App
	inv     *invocation
	globals map[string]cli.Flag
	local   map[string]cli.Flag
	left    []string
}

func (p *parser) take(arg string) error {
	switch {
	case arg == "--":
		p.rest(p.left)
	case arg == "--help" || arg == "-h":
		p.inv.help = true
	case strings.HasPrefix(arg, "--"):
		return p.long(arg)
	case len(arg) > 1 && arg[0] == '-':
		return p.short(arg)
	default:
		return p.word(arg)
	}
	return nil
}

// rest takes what follows "--" as it stands.
func (p *parser) rest(words []string) {
	if _, runs := programAfter[p.inv.name()]; runs {
		p.inv.trailing = append(p.inv.trailing, words...)
	} else {
		p.inv.args = append(p.inv.args, words...)
	}
	p.left = nil
}

func (p *parser) word(arg string) error {
	commands := p.app.Commands
	if len(p.inv.path) > 0 {
		commands = p.inv.leaf().Subcommands
		if len(commands) == 0 {
			if after, runs := programAfter[p.inv.name()]; runs && after >= 0 && len(p.inv.args) >= after {
				p.rest(append([]string{arg}, p.left...))
				return nil
			}
			p.inv.args = append(p.inv.args, arg)
			return nil
		}
	} else if arg == "help" && !p.inv.help {
		p.inv.help = true
		return nil
	}
	for _, c := range commands {
		if c.HasName(arg) {
			p.inv.path = append(p.inv.path, c)
			p.local = flagTable(c.Flags)
			return nil
		}
	}
	if p.inv.help && len(p.inv.path) > 0 {
		return nil
	}
	return p.unknownVerb(arg, commands)
}

func (p *parser) unknownVerb(arg string, commands []*cli.Command) error {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Names()...)
		}
	}
	hint := p.inv.name() + " --help"
	if near := nearest(arg, names); near != "" {
		hint = "did you mean \"" + p.inv.name() + " " + near + "\"?"
	}
	if len(p.inv.path) == 0 {
		return usageError(hint, "there is no verb %q", arg)
	}
	return usageError(hint, "there is no verb %q in %q", arg, p.inv.name())
}

func (p *parser) long(arg string) error {
	name, value, given := strings.Cut(arg[2:], "=")
	flag, err := p.find("--"+name, name)
	if err != nil {
		return err
	}
	return p.add(flag, "--"+name, value, given)
}

// short takes -f, -fVALUE, -f=VALUE, and several in one word: -it, -itc NAME.
func (p *parser) short(arg string) error {
	letters := arg[1:]
	for letters != "" {
		letter := letters[:1]
		flag, err := p.find(arg, letter)
		if err != nil {
			return err
		}
		letters = letters[1:]
		if takesValue(flag) {
			return p.add(flag, "-"+letter, strings.TrimPrefix(letters, "="), letters != "")
		}
		if value, ok := strings.CutPrefix(letters, "="); ok {
			return p.add(flag, "-"+letter, value, true)
		}
		if err := p.add(flag, "-"+letter, "", false); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) find(typed, name string) (cli.Flag, error) {
	if flag, ok := p.local[name]; ok {
		return flag, nil
	}
	if flag, ok := p.globals[name]; ok {
		return flag, nil
	}
	var known []string
	for name := range p.local {
		known = append(known, name)
	}
	for name := range p.globals {
		known = append(known, name)
	}
	slices.Sort(known)
	hint := p.inv.name() + " --help"
	if near := nearest(name, known); near != "" && len(name) > 1 {
		hint = "did you mean \"--" + near + "\"?"
	}
	return nil, usageError(hint, "%q has no flag %s", p.inv.name(), typed)
}

func (p *parser) add(flag cli.Flag, typed, value string, given bool) error {
	if !given && takesValue(flag) {
		if len(p.left) == 0 {
			return usageError(p.inv.name()+" --help", "%s needs a value", typed)
		}
		value, given = p.left[0], true
		p.left = p.left[1:]
	}
	word := "--" + flag.Names()[0]
	if given {
		word += "=" + value
	}
	if p.local[flag.Names()[0]] == flag {
		p.inv.flags = append(p.inv.flags, word)
	} else {
		p.inv.globals = append(p.inv.globals, word)
	}
	return nil
}

func flagTable(flags []cli.Flag) map[string]cli.Flag {
	table := make(map[string]cli.Flag)
	for _, flag := range flags {
		for _, name := range flag.Names() {
			table[name] = flag
		}
	}
	return table
}

func takesValue(flag cli.Flag) bool {
	documented, ok := flag.(cli.DocGenerationFlag)
	return !ok || documented.TakesValue()
}
