package cli

import (
	"context"
	"flag"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// completeWithin bounds how long a shell waits for the names of live objects.
const completeWithin = time.Second

// filesFollow tells the script to complete names of files by itself.
const filesFollow = ":files"

// completer finds what may stand at the cursor. What is typed so far is taken
// as it is, however wrong.
type completer struct {
	session *session
	ctx     context.Context //nolint:containedctx // one completion is one call
	inv     *invocation
	word    string // being typed
}

// complete returns the candidates for the last of words.
func (s *session) complete(ctx context.Context, words []string) []string {
	if len(words) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	app := newApp(s) // of its own: the one in use is in the middle of this verb
	before, word := words[:len(words)-1], words[len(words)-1]
	k := &completer{session: s, ctx: ctx, word: word}
	if len(before) > 0 {
		if name, ok := wantsValue(app, before); ok {
			k.inv, _ = parse(app, before[:len(before)-1])
			return k.matching(k.values(app, name))
		}
	}
	k.inv, _ = parse(app, before)
	if slices.Contains(before, "--") {
		return []string{filesFollow}
	}
	if strings.HasPrefix(word, "-") {
		return k.matching(k.flags(app))
	}
	return k.matching(k.arguments(app))
}

// wantsValue says whether the last of words is a flag that lacks its value.
func wantsValue(app *cli.App, words []string) (string, bool) {
	last := words[len(words)-1]
	if !strings.HasPrefix(last, "-") || strings.Contains(last, "=") || last == "--" {
		return "", false
	}
	inv, _ := parse(app, words[:len(words)-1])
	tables := []map[string]cli.Flag{flagTable(app.Flags)}
	if len(inv.path) > 0 {
		tables = append(tables, flagTable(inv.leaf().Flags))
	}
	name := strings.TrimLeft(last, "-")
	if !strings.HasPrefix(last, "--") {
		name = name[len(name)-1:] // -it, -itc
	}
	for _, table := range tables {
		if f, ok := table[name]; ok && takesValue(f) {
			return f.Names()[0], true
		}
	}
	return "", false
}

func (k *completer) matching(candidates []string) []string {
	if slices.Contains(candidates, filesFollow) {
		return candidates
	}
	var found []string
	for _, candidate := range candidates {
		if strings.HasPrefix(candidate, k.word) {
			found = append(found, candidate)
		}
	}
	return found
}

func (k *completer) flags(app *cli.App) []string {
	flags := app.Flags
	if len(k.inv.path) > 0 {
		flags = append(slices.Clone(k.inv.leaf().Flags), flags...)
	}
	var found []string
	for _, f := range flags {
		if _, usage, ok := describeFlag(f); ok {
			found = append(found, "--"+f.Names()[0]+"\t"+usage)
		}
	}
	return append(found, "--help\texplain this verb")
}

// values completes what a flag is set to.
func (k *completer) values(app *cli.App, name string) []string {
	switch name {
	case "namespace":
		return k.names("namespaces")
	case "context":
		config, _ := loadConfig()
		return contextNames(config)
	case "node":
		return k.names("nodes")
	case "output":
		return k.outputs()
	case "sort-by":
		return []string{"cpu", "memory"}
	case "type":
		return []string{"ClusterIP", "NodePort"}
	case "protocol":
		return []string{"TCP", "UDP"}
	case "role":
		return []string{"view", "edit", "admin"}
	case "image":
		return k.names("images")
	case "for":
		return k.kindOrObject(k.word)
	case "container":
		return k.containers()
	case "filename", "ca", "socket":
		return []string{filesFollow}
	}
	return nil
}

func (k *completer) outputs() []string {
	if len(k.inv.path) > 0 && slices.Contains([]string{"version", "status", "create"}, k.inv.leaf().Name) {
		return []string{"json"}
	}
	if len(k.inv.path) > 0 && slices.Contains([]string{"run", "expose"}, k.inv.leaf().Name) {
		return []string{"json", "yaml"}
	}
	return []string{"json", "name", "wide", "yaml"}
}

// arguments completes a verb, or what a verb is about.
func (k *completer) arguments(app *cli.App) []string {
	commands := app.Commands
	if len(k.inv.path) > 0 {
		commands = k.inv.leaf().Subcommands
	}
	if len(commands) > 0 {
		var found []string
		for _, c := range commands {
			if !c.Hidden {
				found = append(found, c.Name+"\t"+c.Usage)
			}
		}
		return found
	}
	if len(k.inv.path) == 0 {
		return nil
	}
	first := len(k.inv.args) == 0
	switch name := k.inv.name(); name {
	case "skein get", "skein describe", "skein delete", "skein label":
		return k.kindOrObject(k.word)
	case "skein scale", "skein restart", "skein set image":
		return k.kindOrObject(k.word, "deploy")
	case "skein expose":
		if first {
			return k.kindOrObject(k.word, "deploy", "pod")
		}
	case "skein logs":
		return append(k.names("pods"), k.kindOrObject(k.word, "deploy")...)
	case "skein exec", "skein attach":
		if first {
			return k.names("pods")
		}
	case "skein port-forward":
		if first {
			return append(k.names("pods"), k.kindOrObject(k.word, "deploy", "svc")...)
		}
	case "skein cp":
		var places []string
		for _, name := range k.names("pods") {
			places = append(places, name+":/")
		}
		return append(places, filesFollow)
	case "skein top nodes":
		return k.names("nodes")
	case "skein top pods":
		return k.names("pods")
	case "skein node drain", "skein node cordon", "skein node uncordon", "skein node rm":
		return k.names("nodes")
	case "skein token revoke":
		return k.tokens()
	case "skein ctx use", "skein ctx show", "skein ctx rm":
		config, _ := loadConfig()
		return contextNames(config)
	case "skein completion":
		return []string{"bash", "fish", "zsh"}
	case "skein image import":
		return []string{filesFollow}
	}
	return nil
}

// kindOrObject completes "KIND NAME", "KIND/NAME" and "KIND,KIND"; only words
// of the kinds that are given, where some are.
func (k *completer) kindOrObject(word string, only ...string) []string {
	if word, _, slash := strings.Cut(word, "/"); slash {
		var found []string
		for _, name := range k.names(word) {
			found = append(found, word+"/"+name)
		}
		return found
	}
	if len(k.inv.args) > 0 && !strings.Contains(k.inv.args[0], "/") && k.inv.leaf().Name != "logs" {
		return k.names(k.inv.args[0])
	}
	words := only
	if len(words) == 0 {
		for _, kind := range kinds {
			words = append(words, kind.words...)
		}
	}
	var found []string
	for _, candidate := range words {
		if len(only) > 0 || len(k.inv.args) > 0 {
			candidate += "/"
		}
		found = append(found, candidate)
	}
	return found
}

// names are those of the live objects of a kind; none when the cluster does not
// answer in time.
func (k *completer) names(kind string) []string {
	cluster := k.cluster()
	if cluster == nil {
		return nil
	}
	answer, err := cluster.Get(k.ctx, &skeinv1.GetRequest{Kind: kind, Namespace: cluster.namespace, Format: skeinv1.Format_FORMAT_NAME})
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(answer.GetDocument())) {
		found = append(found, nameOf(clean(strings.TrimSpace(line))))
	}
	return found
}

// nameOf drops the kind in front of a name; images have slashes of their own.
func nameOf(line string) string {
	_, name, ok := strings.Cut(line, "/")
	if !ok {
		return line
	}
	return name
}

func (k *completer) containers() []string {
	cluster := k.cluster()
	if cluster == nil || len(k.inv.args) == 0 {
		return nil
	}
	ref := &skeinv1.ObjectRef{Kind: "pod", Namespace: cluster.namespace, Name: path.Base(k.inv.args[0])}
	names, _ := containerNames(k.ctx, cluster, ref)
	return names
}

func (k *completer) tokens() []string {
	cluster := k.cluster()
	if cluster == nil {
		return nil
	}
	answer, err := cluster.ListTokens(k.ctx, &skeinv1.ListTokensRequest{})
	if err != nil {
		return nil
	}
	var found []string
	for _, row := range answer.GetTable().GetRows() {
		found = append(found, path.Base(row.GetKey()))
	}
	return found
}

// cluster connects as the flags typed so far say.
func (k *completer) cluster() *cluster {
	set := flag.NewFlagSet("", flag.ContinueOnError)
	for _, f := range globalFlags() {
		if f.Apply(set) != nil {
			return nil
		}
	}
	for _, word := range k.inv.globals {
		name, value, _ := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		if set.Set(name, value) != nil {
			return nil
		}
	}
	cluster, err := k.session.connect(cli.NewContext(k.session.app, set, nil))
	if err != nil {
		return nil
	}
	return cluster
}
