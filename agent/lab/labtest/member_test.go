//go:build lab

package labtest

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-dev/skein/agent/identity"
)

// knock opens a protocol of nodes at the lab's door with a node's own
// certificate, and returns what ended the connection: os.ErrDeadlineExceeded if
// nothing did.
func (l *lab) knock(node, proto string) error {
	l.Helper()
	id, err := identity.Load(filepath.Join(l.dir, node, "data", "identity"))
	if err != nil {
		l.Fatal(err)
	}
	epoch, err := id.LoadEpoch(filepath.Join(l.dir, node, "data", "cluster-epoch"))
	if err != nil {
		l.Fatal(err)
	}
	id.SetEpoch(epoch)
	anybody := func(string, crypto.PublicKey, string) error { return nil }
	dialer := identity.NewDialer(id, anybody, new(net.Dialer).DialContext)
	ctx, cancel := context.WithTimeout(l.Context(), 5*time.Second)
	defer cancel()
	conn, err := dialer.Dial(ctx, fmt.Sprintf("127.0.0.1:%d", l.port), proto, "")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		l.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

func TestANodeWithoutAVoteDoesNotOpenRaft(t *testing.T) {
	l := raise(t, 4)
	voters := map[string]bool{}
	l.await(comeback, "three of four vote", func() string {
		clear(voters)
		for line := range strings.Lines(l.skein("get", "nodes")) {
			if f := strings.Fields(line); len(f) > 2 && f[2] == "yes" {
				voters[f[0]] = true
			}
		}
		if len(voters) != 3 {
			return fmt.Sprintf("%d do", len(voters))
		}
		return ""
	})
	for _, node := range []string{"n1", "n2", "n3", "n4"} {
		open := func(proto string) bool { return errors.Is(l.knock(node, proto), os.ErrDeadlineExceeded) }
		if got := open(identity.ProtoRaft); got != voters[node] {
			t.Errorf("%s opens raft: %v; it votes: %v", node, got, voters[node])
		}
		if !open(identity.ProtoGossip) { // what is wrong is not its certificate
			t.Errorf("%s does not open gossip", node)
		}
	}
	contains(l, "the log of the lab's door", l.agentLog("n1"), "not a member of raft")
}
