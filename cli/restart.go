package cli

import (
	"time"

	"github.com/urfave/cli/v2"
)

// restartedAt is an annotation of the template; that it differs makes a new
// Revision, and so new Pods.
const restartedAt = "skein.dev/restarted-at"

func (s *session) restartCommand() *cli.Command {
	return &cli.Command{
		Name:      "restart",
		Category:  groupChange,
		Usage:     "replace all Pods by new ones of the same template, and wait",
		ArgsUsage: "KIND/NAME…",
		UsageText: "skein restart deploy/web",
		Flags:     waitFlags(),
		Action: func(c *cli.Context) error {
			annotations := map[string]any{restartedAt: s.now().UTC().Format(time.RFC3339Nano)}
			patch := map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": annotations}}}}
			return s.patchEach(c, c.Args().Slice(), patch, "restarted")
		},
	}
}
