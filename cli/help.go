package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// rootExamples are what a newcomer should try.
const rootExamples = `skein run web --image skein/demo:v1 --replicas 3
skein get pods -w
skein logs deploy/web -f
skein status`

// printHelp explains a verb, or all of skein: examples, usage, flags.
func (s *session) printHelp(path []*cli.Command) error {
	var b strings.Builder
	if len(path) == 0 {
		s.rootHelp(&b)
	} else {
		verbHelp(&b, path)
	}
	_, err := io.WriteString(s.stdout, b.String())
	return err
}

func (s *session) rootHelp(b *strings.Builder) {
	fmt.Fprintf(b, "skein: %s\n\n", s.app.Usage)
	section(b, "Examples", rootExamples)
	for _, group := range groups {
		var rows [][]string
		for _, c := range s.app.Commands {
			if c.Category != group || c.Hidden {
				continue
			}
			name := c.Name
			if len(c.Subcommands) > 0 {
				name += " " + verbs(c.Subcommands)
			}
			usage := c.Usage
			if len(c.Subcommands) == 1 {
				usage = c.Subcommands[0].Usage
			}
			rows = append(rows, []string{name, usage})
		}
		section(b, group, aligned(rows, 34))
	}
	section(b, "Flags of every verb", flagLines(s.app.Flags))
	b.WriteString("\"skein VERB --help\" explains a verb. Each of these flags has a variable: SKEIN_NAMESPACE, SKEIN_SERVER …\n")
}

// verbs lists the words below a noun: "ls|cordon".
func verbs(commands []*cli.Command) string {
	var names []string
	for _, c := range commands {
		names = append(names, c.Name)
	}
	return strings.Join(names, "|")
}

func verbHelp(b *strings.Builder, path []*cli.Command) {
	c := path[len(path)-1]
	name := commandName(path)
	fmt.Fprintf(b, "%s: %s\n\n", name, c.Usage)
	section(b, "Examples", examples(c))
	usage := strings.TrimSpace(name + " " + c.ArgsUsage)
	if len(c.Subcommands) > 0 {
		usage = name + " " + verbs(c.Subcommands)
	}
	section(b, "Usage", usage)
	if c.Description != "" {
		section(b, "", c.Description)
	}
	var rows [][]string
	for _, sub := range c.Subcommands {
		rows = append(rows, []string{sub.Name, sub.Usage})
	}
	section(b, "Verbs", aligned(rows, 12))
	section(b, "Flags", flagLines(c.Flags))
	b.WriteString("\"skein --help\" lists the flags of every verb.\n")
}

// examples of a noun are those of its verbs.
func examples(c *cli.Command) string {
	if c.UsageText != "" {
		return c.UsageText
	}
	var lines []string
	for _, sub := range c.Subcommands {
		first, _, _ := strings.Cut(sub.UsageText, "\n")
		lines = append(lines, first)
	}
	return strings.Join(lines, "\n")
}

func section(b *strings.Builder, title, text string) {
	if text == "" {
		return
	}
	if title != "" {
		b.WriteString(title + ":\n")
	}
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		b.WriteString("  " + line + "\n")
	}
	b.WriteString("\n")
}

// aligned puts the second column below each other, where the first leaves room.
func aligned(rows [][]string, most int) string {
	at := 0
	for _, row := range rows {
		if width(row[0]) <= most {
			at = max(at, width(row[0]))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		gap := "\n" + strings.Repeat(" ", at+2)
		if width(row[0]) <= at {
			gap = strings.Repeat(" ", at-width(row[0])+2)
		}
		b.WriteString(row[0] + gap + row[1] + "\n")
	}
	return b.String()
}

func flagLines(flags []cli.Flag) string {
	var rows [][]string
	for _, flag := range flags {
		if left, usage, ok := describeFlag(flag); ok {
			rows = append(rows, []string{left, usage})
		}
	}
	return aligned(rows, 34)
}

// describeFlag writes "-f, --filename FILE" and what it does. The word between
// back-quotes in the usage names the value.
func describeFlag(flag cli.Flag) (left, usage string, ok bool) {
	documented, ok := flag.(cli.DocGenerationFlag)
	if visible, is := flag.(cli.VisibleFlag); !ok || is && !visible.IsVisible() {
		return "", "", false
	}
	usage = documented.GetUsage()
	value := ""
	if before, rest, found := strings.Cut(usage, "`"); found {
		name, after, _ := strings.Cut(rest, "`")
		value, usage = " "+name, before+name+after
	} else if documented.TakesValue() {
		value = " VALUE"
	}
	left = "    "
	for _, name := range flag.Names() {
		if len(name) == 1 {
			left = "-" + name + ", "
		}
	}
	left += "--" + flag.Names()[0] + value
	if text := documented.GetDefaultText(); shownDefault(flag) && text != "" {
		usage += " (default " + strings.Trim(text, `"`) + ")"
	}
	return left, usage, true
}

// shownDefault is false for flags whose default says nothing: off, none, empty.
func shownDefault(flag cli.Flag) bool {
	switch f := flag.(type) {
	case *cli.StringFlag:
		return f.Value != ""
	case *cli.IntFlag:
		return f.Value != 0
	default:
		return false
	}
}
