package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"
	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) setCommand() *cli.Command {
	return &cli.Command{
		Name:     "set",
		Category: groupChange,
		Usage:    "change the image of an object's containers",
		Subcommands: []*cli.Command{{
			Name:      "image",
			Usage:     "run another image, and wait until all Pods do",
			ArgsUsage: "KIND/NAME CONTAINER=IMAGE…",
			UsageText: `skein set image deploy/web web=skein/demo:v2
skein set image deploy/web '*=skein/demo:v2'     in every container`,
			Flags:  waitFlags(),
			Action: s.setImage,
		}},
	}
}

func (s *session) setImage(c *cli.Context) error {
	var objects []string
	images := map[string]string{}
	for _, arg := range c.Args().Slice() {
		container, image, ok := strings.Cut(arg, "=")
		if !ok {
			objects = append(objects, arg)
			continue
		}
		if container == "" || image == "" {
			return usageError("", "%q: want CONTAINER=IMAGE", arg)
		}
		images[container] = image
	}
	if len(objects) == 0 {
		return missing(c, "an object")
	}
	if len(images) == 0 {
		return missing(c, "CONTAINER=IMAGE")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	refs, err := namedRefs(c, objects, cluster.namespace)
	if err != nil {
		return err
	}
	wait, err := s.newWaiting(c, cluster)
	if err != nil {
		return err
	}
	var changed []*skeinv1.Applied
	for _, ref := range refs {
		applied, err := cluster.edit(c.Context, ref, func(object map[string]any) (map[string]any, error) {
			return imagePatch(object, ref, images)
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(s.stdout, "%s image updated\n", clean(shown(applied.GetObject())))
		changed = append(changed, applied)
	}
	return wait.all(c.Context, changed, false)
}

// edit reads an object, lets change say what to merge into it, and sends that,
// based on what was read. When somebody was faster it begins again.
func (t *cluster) edit(ctx context.Context, ref *skeinv1.ObjectRef, change func(object map[string]any) (map[string]any, error)) (*skeinv1.Applied, error) {
	const tries = 5
	for try := 1; ; try++ {
		object, version, err := t.read(ctx, ref)
		if err != nil {
			return nil, err
		}
		patch, err := change(object)
		if err != nil {
			return nil, err
		}
		merge, err := json.Marshal(patch)
		if err != nil {
			return nil, fmt.Errorf("encode the change: %w", err)
		}
		response, err := t.Patch(ctx, &skeinv1.PatchRequest{Object: ref, MergePatch: merge, ExpectVersion: version})
		if err == nil {
			return response.GetApplied(), nil
		}
		var conflict *connect.Error
		if try == tries || !errors.As(err, &conflict) || conflict.Code() != connect.CodeAborted {
			return nil, err
		}
	}
}

// read returns an object as JSON values, its numbers untouched, and its version.
func (t *cluster) read(ctx context.Context, ref *skeinv1.ObjectRef) (map[string]any, uint64, error) {
	answer, err := t.Get(ctx, &skeinv1.GetRequest{
		Kind: ref.GetKind(), Namespace: ref.GetNamespace(), Name: ref.GetName(), Format: skeinv1.Format_FORMAT_JSON,
	})
	if err != nil {
		return nil, 0, err
	}
	object := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(answer.GetDocument()))
	decoder.UseNumber()
	if err := decoder.Decode(&object); err != nil {
		return nil, 0, fmt.Errorf("read the answer: %w", err)
	}
	text, _ := field(object, "metadata", "resourceVersion").(string)
	version, _ := strconv.ParseUint(text, 10, 64)
	return object, version, nil
}

// field walks down maps; nil where there is nothing.
func field(value any, path ...string) any {
	for _, name := range path {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return value
}

// imagePatch changes images of the template's containers. A merge patch replaces
// a list as a whole, so the list is sent back with all that it held.
func imagePatch(object map[string]any, ref *skeinv1.ObjectRef, images map[string]string) (map[string]any, error) {
	path, patch := []string{"spec", "template", "spec"}, map[string]any{}
	pod, template := patch, field(object, path...)
	if template == nil {
		path, template = []string{"spec"}, field(object, "spec") // a Pod has none
	}
	for _, name := range path {
		below := map[string]any{}
		pod[name] = below
		pod = below
	}
	used := map[string]bool{}
	var known []string
	for _, list := range []string{"containers", "initContainers"} {
		containers, _ := field(template, list).([]any)
		for _, one := range containers {
			container, _ := one.(map[string]any)
			name, _ := container["name"].(string)
			known = append(known, name)
			for _, key := range []string{"*", name} {
				if image, ok := images[key]; ok {
					container["image"], used[key] = image, true
					pod[list] = containers
				}
			}
		}
	}
	for name := range images {
		if !used[name] {
			slices.Sort(known)
			return nil, usageError("its containers: "+strings.Join(known, ", "), "%s has no container %q", shown(ref), name)
		}
	}
	return patch, nil
}
