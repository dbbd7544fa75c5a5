package cli

import (
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) scaleCommand() *cli.Command {
	return &cli.Command{
		Name:      "scale",
		Category:  groupChange,
		Usage:     "run more Pods, or fewer, and wait until they do",
		ArgsUsage: "KIND/NAME… --replicas N",
		UsageText: `skein scale deploy/web --replicas 5
skein scale deploy web --replicas 0`,
		Flags:  append([]cli.Flag{&cli.IntFlag{Name: "replicas", Usage: "`N` Pods (required)"}}, waitFlags()...),
		Action: s.scale,
	}
}

func (s *session) scale(c *cli.Context) error {
	if !c.IsSet("replicas") {
		return missing(c, "--replicas")
	}
	if c.Int("replicas") < 0 {
		return usageError("", "--replicas %d: want none or more", c.Int("replicas"))
	}
	patch := map[string]any{"spec": map[string]any{"replicas": c.Int("replicas")}}
	return s.patchEach(c, c.Args().Slice(), patch, fmt.Sprintf("scaled to %d", c.Int("replicas")))
}

// patchEach makes the same change to every object that args name, then waits.
func (s *session) patchEach(c *cli.Context, args []string, patch map[string]any, did string) error {
	if len(args) == 0 {
		return missing(c, "a kind and a name")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	refs, err := namedRefs(c, args, cluster.namespace)
	if err != nil {
		return err
	}
	wait, err := s.newWaiting(c, cluster)
	if err != nil {
		return err
	}
	merge, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode the change: %w", err)
	}
	var changed []*skeinv1.Applied
	for _, ref := range refs {
		response, err := cluster.Patch(c.Context, &skeinv1.PatchRequest{Object: ref, MergePatch: merge})
		if err != nil {
			return err
		}
		fmt.Fprintf(s.stdout, "%s %s\n", clean(shown(response.GetApplied().GetObject())), did)
		changed = append(changed, response.GetApplied())
	}
	return wait.all(c.Context, changed, false)
}

// namedRefs reads objects that must have names.
func namedRefs(c *cli.Context, args []string, namespace string) ([]*skeinv1.ObjectRef, error) {
	refs, err := parseRefs(args, namespace)
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return nil, missing(c, "a kind and a name")
	}
	if refs[0].GetName() == "" {
		hint := fmt.Sprintf("%s deploy/%s", c.Command.HelpName, refs[0].GetKind())
		if kindOf(refs[0].GetKind()).name != refs[0].GetKind() {
			hint = "usage: " + usageLine(c.Command)
		}
		return nil, usageError(hint, "%q: want KIND/NAME", refs[0].GetKind())
	}
	return refs, nil
}
