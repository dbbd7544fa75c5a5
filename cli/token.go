package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) tokenCommand() *cli.Command {
	return &cli.Command{
		Name:     "token",
		Category: groupMachines,
		Usage:    "what lets machines join, and people in",
		Subcommands: []*cli.Command{
			{
				Name:  "create",
				Usage: "make a token; it is shown once",
				UsageText: `skein token create                    the line to run on a machine that is to join
skein token create --ttl 1h --uses 1  for one machine, within the hour
skein token create --role edit        the line that gives a person access`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "role", Usage: "for a person, who may `ROLE`: view, edit or admin"},
					&cli.StringFlag{Name: "ttl", Usage: "valid for `DURATION`; else 24h to join, 365d for a person"},
					&cli.IntFlag{Name: "uses", Usage: "`N` machines may join with it; else any number"},
					&cli.StringFlag{Name: "description", Usage: "`TEXT` to tell it by"},
					&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the token alone"},
					&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT` json"},
				},
				Action: s.createToken,
			},
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list them, without their secrets",
				UsageText: "skein token ls",
				Flags:     outputFlags(),
				Action:    s.listTokens,
			},
			{
				Name: "revoke", Aliases: []string{"rm"}, ArgsUsage: "ID…", Usage: "let it open nothing any more",
				UsageText: "skein token revoke 7f3k9q",
				Action:    s.revokeTokens,
			},
		},
	}
}

func (s *session) createToken(c *cli.Context) error {
	asJSON, err := wantJSON(c)
	if err != nil {
		return err
	}
	ttl, err := parseDuration("--ttl", c.String("ttl"))
	if err != nil {
		return err
	}
	if c.Int("uses") < 0 {
		return usageError("", "--uses %d: want one or more", c.Int("uses"))
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	response, err := cluster.CreateToken(c.Context, &skeinv1.CreateTokenRequest{
		Role: c.String("role"), TtlMs: ttl.Milliseconds(), Description: c.String("description"), Uses: int32(c.Int("uses")), //nolint:gosec // checked by the server
	})
	if err != nil {
		return err
	}
	access := ""
	if c.String("role") != "" {
		if access, err = accessFor(c.Context, cluster, response); err != nil {
			return err
		}
	}
	switch {
	case asJSON:
		return s.printTokenJSON(response, access)
	case c.Bool("quiet"):
		fmt.Fprintln(s.stdout, response.GetToken())
	case access != "":
		fmt.Fprintf(s.stderr, "this line gives access as %s; it is not shown again (skein token revoke %s takes it back):\n", c.String("role"), response.GetId())
		fmt.Fprintln(s.stdout, access)
	default:
		fmt.Fprintf(s.stderr, "run this line on each machine that is to join; it is not shown again (skein token revoke %s takes it back):\n", response.GetId())
		fmt.Fprintln(s.stdout, response.GetJoinCommand())
	}
	return nil
}

func (s *session) printTokenJSON(response *skeinv1.CreateTokenResponse, access string) error {
	raw, err := json.Marshal(struct {
		ID          string `json:"id"`
		Token       string `json:"token"`
		JoinCommand string `json:"joinCommand,omitempty"`
		AddCommand  string `json:"addCommand,omitempty"`
		CAPEM       string `json:"caPem,omitempty"`
	}{response.GetId(), response.GetToken(), response.GetJoinCommand(), access, response.GetCaPem()})
	if err != nil {
		return fmt.Errorf("encode the token: %w", err)
	}
	document, err := indentJSON(raw)
	if err != nil {
		return err
	}
	_, err = s.stdout.Write(document)
	return err
}

// accessFor is the command that gives a person access. No CA is in it: the token
// names that.
func accessFor(ctx context.Context, cluster *cluster, response *skeinv1.CreateTokenResponse) (string, error) {
	server := cluster.server
	if strings.HasPrefix(server, "unix://") {
		address, err := advertised(ctx, cluster)
		if err != nil {
			return "", err
		}
		server = "https://" + address
	}
	return fmt.Sprintf("skein ctx add --server %s --token %s", server, response.GetToken()), nil
}

// advertised finds an address at which another machine reaches the API: the
// leader's where there is one.
func advertised(ctx context.Context, cluster *cluster) (string, error) {
	answer, err := cluster.Get(ctx, &skeinv1.GetRequest{Kind: "nodes", Format: skeinv1.Format_FORMAT_JSON})
	if err != nil {
		return "", err
	}
	var nodes struct {
		Items []struct {
			Metadata struct {
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"metadata"`
		} `json:"items"`
	}
	if err := json.Unmarshal(answer.GetDocument(), &nodes); err != nil {
		return "", fmt.Errorf("read the nodes: %w", err)
	}
	found := ""
	for _, node := range nodes.Items {
		address := node.Metadata.Annotations["skein.dev/advertise"]
		if found == "" || address != "" && node.Metadata.Labels["skein.dev/leader"] == "true" {
			found = address
		}
	}
	if found == "" {
		return "", failed("", "no node says at which address it is reached")
	}
	return found, nil
}

func (s *session) listTokens(c *cli.Context) error {
	if c.Args().Present() {
		return tooMany(c, c.Args().First())
	}
	l, err := s.newListing(c)
	if err != nil {
		return err
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	answer, err := cluster.ListTokens(c.Context, &skeinv1.ListTokensRequest{Format: l.format})
	if err != nil {
		return err
	}
	l.all = true // tokens are in no namespace
	return l.print([]*skeinv1.GetResponse{answer}, []*skeinv1.GetRequest{{Kind: "tokens"}})
}

func (s *session) revokeTokens(c *cli.Context) error {
	if !c.Args().Present() {
		return missing(c, "an id")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	for _, id := range c.Args().Slice() {
		if _, err := cluster.RevokeToken(c.Context, &skeinv1.RevokeTokenRequest{Id: id}); err != nil {
			return err
		}
		fmt.Fprintf(s.stdout, "token/%s revoked\n", id)
	}
	return nil
}
