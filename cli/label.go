package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) labelCommand() *cli.Command {
	return &cli.Command{
		Name:      "label",
		Category:  groupChange,
		Usage:     "set labels of objects, or remove them",
		ArgsUsage: "KIND NAME… KEY=VALUE… KEY-…",
		UsageText: `skein label node n1 disk=ssd
skein label node/n1 disk=nvme --overwrite
skein label pod web-1 tier-           without it`,
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "overwrite", Usage: "replace labels that have another value"}},
		Action: s.label,
	}
}

func (s *session) label(c *cli.Context) error {
	var objects []string
	labels := map[string]any{} // nil removes
	for _, arg := range c.Args().Slice() {
		if key, value, ok := strings.Cut(arg, "="); ok {
			labels[key] = value
		} else if key, ok := strings.CutSuffix(arg, "-"); ok && len(objects) > 0 {
			labels[key] = nil
		} else {
			objects = append(objects, arg)
		}
	}
	if _, empty := labels[""]; empty {
		return usageError("usage: "+usageLine(c.Command), "a label needs a key")
	}
	if len(labels) == 0 {
		return missing(c, "a label")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	refs, err := namedRefs(c, objects, cluster.namespace)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		applied, err := cluster.edit(c.Context, ref, func(object map[string]any) (map[string]any, error) {
			if !c.Bool("overwrite") {
				if err := refuseOverwrite(object, ref, labels); err != nil {
					return nil, err
				}
			}
			return map[string]any{"metadata": map[string]any{"labels": labels}}, nil
		})
		if err != nil {
			return err
		}
		did := "labelled"
		if applied.GetAction() == "unchanged" {
			did = "unchanged"
		}
		fmt.Fprintf(s.stdout, "%s %s\n", clean(shown(applied.GetObject())), did)
	}
	return nil
}

func refuseOverwrite(object map[string]any, ref *skeinv1.ObjectRef, labels map[string]any) error {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		have, ok := field(object, "metadata", "labels", key).(string)
		if key == "skein.dev/voter" && have == "true" {
			continue // shown of a node that votes, set by nobody
		}
		if ok && labels[key] != nil && labels[key] != have {
			return failed("add --overwrite to replace it", "%s has label %s=%s; nothing was changed", shown(ref), key, have)
		}
	}
	return nil
}
