package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// version is set when a release is built:
// -ldflags "-X github.com/skein-dev/skein/cli.version=v1.2.3".
var version = ""

// clientVersion falls back to what the Go toolchain noted of the source.
func clientVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, changed := "", ""
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			revision = setting.Value[:min(12, len(setting.Value))]
		case "vcs.modified":
			if setting.Value == "true" {
				changed = "+changes"
			}
		}
	}
	if revision == "" {
		return "dev"
	}
	return "dev-" + revision + changed
}

func (s *session) versionCommand() *cli.Command {
	return &cli.Command{
		Name:     "version",
		Category: groupCluster,
		Usage:    "of this command, and of the agent that answers",
		UsageText: `skein version
skein version --client                without asking a cluster`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "client", Usage: "of this command alone"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT` json"},
		},
		Action: s.version,
	}
}

// versions is what "version -o json" prints.
type versions struct {
	Client clientInfo  `json:"client"`
	Server *serverInfo `json:"server,omitempty"`
}

type clientInfo struct {
	Version   string `json:"version"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

type serverInfo struct {
	Version     string `json:"version"`
	GoVersion   string `json:"goVersion"`
	RuncVersion string `json:"runcVersion"`
	Node        string `json:"node"`
	Leader      string `json:"leader"`
}

func (s *session) version(c *cli.Context) error {
	asJSON, err := wantJSON(c)
	if err != nil {
		return err
	}
	all := versions{Client: clientInfo{Version: clientVersion(), GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}}
	var failure error
	if !c.Bool("client") {
		all.Server, failure = s.serverVersion(c)
	}
	if asJSON {
		raw, err := json.Marshal(all)
		if err != nil {
			return fmt.Errorf("encode versions: %w", err)
		}
		document, err := indentJSON(raw)
		if err != nil {
			return err
		}
		_, err = s.stdout.Write(document)
		return joinFailures([]error{failure, err})
	}
	fmt.Fprintf(s.stdout, "skein   %s, %s, %s\n", all.Client.Version, all.Client.GoVersion, all.Client.Platform)
	if all.Server != nil {
		leader := all.Server.Leader
		if leader == "" {
			leader = "none"
		}
		fmt.Fprintln(s.stdout, clean(fmt.Sprintf("skeind  %s, %s, runc %s, on %s (leader: %s)",
			all.Server.Version, all.Server.GoVersion, all.Server.RuncVersion, all.Server.Node, leader)))
	}
	return failure
}

func (s *session) serverVersion(c *cli.Context) (*serverInfo, error) {
	cluster, err := s.connect(c)
	if err != nil {
		return nil, err
	}
	answer, err := cluster.Version(c.Context, &skeinv1.VersionRequest{})
	if err != nil {
		return nil, err
	}
	return &serverInfo{
		Version: answer.GetVersion(), GoVersion: answer.GetGoVersion(), RuncVersion: answer.GetRuncVersion(),
		Node: answer.GetNode(), Leader: answer.GetLeader(),
	}, nil
}
