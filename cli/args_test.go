package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
	"pgregory.net/rapid"
)

func TestParsePutsFlagsWhereTheyAreRead(t *testing.T) {
	tests := map[string]struct {
		line     string
		argv     string
		trailing []string
	}{
		"flags behind arguments":          {line: "get pods -n x", argv: "skein --namespace=x get -- pods"},
		"flags between arguments":         {line: "get pod -o json web-1", argv: "skein get --output=json -- pod web-1"},
		"a value in the same word":        {line: "get pods -ojson --selector=app=web", argv: "skein get --output=json --selector=app=web -- pods"},
		"a value behind = of a letter":    {line: "get pods -o=json", argv: "skein get --output=json -- pods"},
		"letters in one word":             {line: "exec -it web", argv: "skein exec --stdin --tty -- web"},
		"letters, the last with a value":  {line: "exec -itc app web", argv: "skein exec --stdin --tty --container=app -- web"},
		"a value that looks like a flag":  {line: "logs web --tail -1", argv: "skein logs --tail=-1 -- web"},
		"a switch with a value":           {line: "logs web --prefix=false", argv: "skein logs --prefix=false -- web"},
		"a switch takes no word":          {line: "logs -f web", argv: "skein logs --follow -- web"},
		"a flag given twice":              {line: "apply -f a -f b", argv: "skein apply --filename=a --filename=b --"},
		"a dash alone is an argument":     {line: "image import -", argv: "skein image import -- -"},
		"a dash alone as a value":         {line: "apply -f -", argv: "skein apply --filename=- --"},
		"flags of all verbs in front":     {line: "--context lab get pods", argv: "skein --context=lab get -- pods"},
		"between noun and verb":           {line: "node --context lab ls", argv: "skein --context=lab node ls --"},
		"a short name of the verb's own":  {line: "run x -p 80 -e A=1", argv: "skein run --port=80 --env=A=1 -- x"},
		"a program behind --":             {line: "exec web -- sh -c true", argv: "skein exec -- web", trailing: []string{"sh", "-c", "true"}},
		"a program without --":            {line: "exec -i web sh -i", argv: "skein exec --stdin -- web", trailing: []string{"sh", "-i"}},
		"flags up to the program":         {line: "exec web -c app sh -c true", argv: "skein exec --container=app -- web", trailing: []string{"sh", "-c", "true"}},
		"a second -- is the program's":    {line: "exec web -- env -- x", argv: "skein exec -- web", trailing: []string{"env", "--", "x"}},
		"run takes words from behind --":  {line: "run x --image y -- -v", argv: "skein run --image=y -- x", trailing: []string{"-v"}},
		"a name that looks like a flag":   {line: "delete pod -- -x", argv: "skein delete -- pod -x"},
		"another name of a verb":          {line: "token rm abc", argv: "skein token revoke -- abc"},
		"a noun whose flags are its verb": {line: "set image deploy/web a=b --no-wait", argv: "skein set image --no-wait -- deploy/web a=b"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inv, err := parse(testApp(), strings.Fields(tt.line))
			if err != nil {
				t.Fatalf("parse: %v", err)
			}
			if diff := cmp.Diff(strings.Fields(tt.argv), inv.argv()); diff != "" {
				t.Errorf("argv (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.trailing, inv.trailing); diff != "" {
				t.Errorf("trailing (-want +got):\n%s", diff)
			}
		})
	}
}

func testApp() *cli.App { return newApp(&session{}) }

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	for line, want := range map[string]string{
		"get pods --wacth":   `"skein get" has no flag --wacth`,
		"get pods -x":        `"skein get" has no flag -x`,
		"exec -ix web":       `"skein exec" has no flag -ix`,
		"lgos web":           `there is no verb "lgos"`,
		"node remvoe n1":     `there is no verb "remvoe" in "skein node"`,
		"get pods --output":  "--output needs a value",
		"get pods -n":        "-n needs a value",
		"--replicas 3 scale": `"skein" has no flag --replicas`,
	} {
		_, err := parse(testApp(), strings.Fields(line))
		var f *failure
		if !errors.As(err, &f) || f.code != exitUsage || f.message != want || f.hint == "" {
			t.Errorf("parse(%q) = %#v, want usage error %q with a hint", line, err, want)
		}
	}
}

// Wherever its flags stand, a command line means the same; and urfave/cli, which
// reads the result, finds every argument and value unchanged.
func TestParseIsBlindToWhereFlagsStand(t *testing.T) {
	flags := [][]string{{"-n", "x"}, {"-o", "json"}, {"--selector=a=b"}, {"-w"}, {"--no-headers"}, {"--context", "-odd"}, {"-A"}}
	rapid.Check(t, func(t *rapid.T) {
		chosen := rapid.Permutation(flags).Draw(t, "flags")[:rapid.IntRange(0, len(flags)).Draw(t, "how many")]
		words := rapid.SliceOfN(rapid.StringMatching(`[a-z][a-z0-9/.-]{0,8}`), 0, 4).Draw(t, "words")
		behind := rapid.SliceOfN(rapid.StringMatching(`-{0,2}[a-z=]{0,5}`), 0, 3).Draw(t, "behind --")
		line := []string{"get"}
		rest := slices.Clone(words)
		for _, flag := range chosen {
			take := rapid.IntRange(0, len(rest)).Draw(t, "words before the flag")
			line = append(append(line, rest[:take]...), flag...)
			rest = rest[take:]
		}
		line = append(append(append(line, rest...), "--"), behind...)

		app := testApp()
		var got []string
		values := map[string]string{}
		app.Command("get").Action = func(c *cli.Context) error {
			got = c.Args().Slice()
			for _, name := range []string{"namespace", "output", "selector", "context"} {
				values[name] = c.String(name)
			}
			return nil
		}
		inv, err := parse(app, line)
		if err != nil {
			t.Fatalf("parse(%q): %v", line, err)
		}
		if err := app.Run(inv.argv()); err != nil {
			t.Fatalf("run %q: %v", inv.argv(), err)
		}
		if want := append(slices.Clone(words), behind...); !slices.Equal(got, want) {
			t.Errorf("%q: arguments %q, want %q", line, got, want)
		}
		for name, value := range map[string]string{"namespace": "-n x", "output": "-o json", "selector": "--selector=a=b", "context": "--context -odd"} {
			want := ""
			for _, flag := range chosen {
				if joined := strings.Join(flag, " "); joined == value {
					want = strings.TrimPrefix(joined[strings.IndexAny(joined, " =")+1:], " ")
				}
			}
			if values[name] != want {
				t.Errorf("%q: --%s = %q, want %q", line, name, values[name], want)
			}
		}
	})
}

func TestNearest(t *testing.T) {
	words := []string{"get", "delete", "describe", "node", "namespace"}
	for typed, want := range map[string]string{
		"gte": "get", "gett": "get", "delte": "delete", "namespce": "namespace", "nod": "node", "xyzzy": "", "q": "", "pods": "",
	} {
		if got := nearest(typed, words); got != want {
			t.Errorf("nearest(%q) = %q, want %q", typed, got, want)
		}
	}
}

func TestDistanceIsAMetric(t *testing.T) {
	word := rapid.StringMatching(`[a-c]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := distance(a, b)
		if d != distance(b, a) {
			t.Errorf("distance(%q, %q) = %d, the other way %d", a, b, d, distance(b, a))
		}
		if (d == 0) != (a == b) {
			t.Errorf("distance(%q, %q) = %d", a, b, d)
		}
		if most := max(len(a), len(b)); d > most {
			t.Errorf("distance(%q, %q) = %d, above %d", a, b, d, most)
		}
	})
}
