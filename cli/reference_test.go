package cli

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "rewrite docs/cli.md")

// The reference page is written from the verbs themselves: -update rewrites it.
func TestTheReferencePageIsCurrent(t *testing.T) {
	path := filepath.Join("..", "docs", "cli.md")
	want := reference()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/cli.md is out of date: go test ./cli -run Reference -update (-want +got):\n%s", diff)
	}
}

func TestEveryVerbExplainsItself(t *testing.T) {
	app := testApp()
	each(app.Commands, func(c *cli.Command) {
		if c.Usage == "" && !c.Hidden {
			t.Errorf("%s says not what it does", c.Name)
		}
		if len(c.Subcommands) == 0 && !c.Hidden && !strings.HasPrefix(c.UsageText, "skein ") && !strings.Contains(c.UsageText, "skein "+c.Name) {
			t.Errorf("%s has no example", c.Name)
		}
		for _, f := range c.Flags {
			if left, usage, ok := describeFlag(f); !ok || usage == "" {
				t.Errorf("%s: flag %s says not what it does", c.Name, left)
			}
		}
	})
	for _, c := range app.Commands {
		known := false
		for _, group := range groups {
			known = known || c.Category == group
		}
		if !known && !c.Hidden {
			t.Errorf("%s is in no group of the help", c.Name)
		}
	}
}

// Every example in the help is a command line that the parser takes.
func TestExamplesAreTakenAsTheyStand(t *testing.T) {
	each(testApp().Commands, func(c *cli.Command) {
		for line := range strings.SplitSeq(c.UsageText, "\n") {
			_, line, ok := strings.Cut(" "+line, " skein ")
			if !ok || strings.Contains(line, "…") {
				continue
			}
			line, _, _ = strings.Cut(line, "   ")
			line = strings.NewReplacer("<(", "", ")", "", "'", "").Replace(line)
			for _, end := range []string{" | ", " && "} {
				line, _, _ = strings.Cut(line, end)
			}
			if _, err := parse(testApp(), strings.Fields(line)); err != nil {
				t.Errorf("skein %s: %v", line, err)
			}
		}
	})
}

func reference() string {
	app := testApp()
	var b strings.Builder
	b.WriteString(`# The command line

<!-- Written by "go test ./cli -run Reference -update" from the verbs themselves: change those. -->

` + "`skein`" + ` sends what you give it to any node of the cluster and prints what that answers. Flags may
stand before or behind arguments; what follows ` + "`--`" + ` is taken as it is. Data goes to standard output,
progress, warnings and hints to standard error. Colour appears on a terminal only, never with ` + "`NO_COLOR`" + `.

Commands that change something wait until it is so: ` + "`--no-wait`" + ` returns at once, ` + "`--timeout`" + ` bounds it (2m).
An image that comes to a node on the way has a line of its own: layers, bytes, rate, and the registry or the nodes that give it.

## Which cluster

In this order: ` + "`--socket`" + `; ` + "`--server`" + ` with ` + "`--token`" + ` and ` + "`--ca`" + `; ` + "`--context`" + `; the context in use
(` + "`skein ctx use`" + `); the agent on this machine, through /run/skein/skein.sock. Contexts are kept in
~/.config/skein/config.json, or where ` + "`SKEIN_CONFIG`" + ` says. To give a person access:

`)
	b.WriteString("```\nskein token create --role edit                                      # on a node; prints this line:\nskein ctx add --server https://192.0.2.10:7373 --token skeinp1-…    # for the person's machine\n```\n\n")
	b.WriteString("| flag of every verb | variable | |\n|---|---|---|\n")
	for _, f := range globalFlags() {
		left, usage, _ := describeFlag(f)
		variable := f.(cli.DocGenerationFlag).GetEnvVars()[0] //nolint:forcetypeassert // all are
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", strings.TrimSpace(left), variable, usage)
	}
	b.WriteString(exitCodes)
	for _, group := range groups {
		fmt.Fprintf(&b, "\n## %s\n", group)
		for _, c := range app.Commands {
			if c.Category == group && !c.Hidden {
				referVerb(&b, []*cli.Command{c})
			}
		}
	}
	return b.String()
}

const exitCodes = `
## Exit codes

| code | meaning |
|---|---|
| 0 | done, and converged where the verb waits |
| 1 | failed |
| 2 | usage, or an invalid manifest (nothing was changed) |
| 3 | accepted, but not placed or not converged by the deadline |
| 4 | the rollout failed and was rolled back |
| 5 | refused for safety (would lose quorum, break a budget) |
| 6 | not authenticated, or not allowed |
| 7 | no leader (reads are still answered, with their age) |
| 130 | cancelled |

` + "`skein exec`" + ` exits with the program's own code, or 127 or 126 if it cannot be started. A failure is one line, ` + "`skein: …`" + `, and where there is a way
out another, ` + "`hint: …`" + `.
`

func referVerb(b *strings.Builder, path []*cli.Command) {
	c := path[len(path)-1]
	if len(c.Subcommands) > 0 {
		for _, sub := range c.Subcommands {
			referVerb(b, append(path[:len(path):len(path)], sub))
		}
		return
	}
	name := commandName(path)
	fmt.Fprintf(b, "\n### %s\n\n`%s`: %s.", name, strings.TrimSpace(name+" "+c.ArgsUsage), c.Usage)
	if c.Description != "" {
		fmt.Fprintf(b, " %s", c.Description)
	}
	fmt.Fprintf(b, "\n\n```\n%s\n```\n", c.UsageText)
	if len(c.Flags) == 0 {
		return
	}
	b.WriteString("\n| flag | |\n|---|---|\n")
	for _, f := range c.Flags {
		left, usage, _ := describeFlag(f)
		fmt.Fprintf(b, "| `%s` | %s |\n", strings.ReplaceAll(strings.TrimSpace(left), "|", `\|`), strings.ReplaceAll(usage, "|", `\|`))
	}
}
