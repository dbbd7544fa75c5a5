package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// The test program stands in for skeind: labs start it again as keeper, agent
// and forwarder, with the arguments that skeind would get.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	var err error
	switch os.Args[1] {
	case "run":
		err = standInKeeper(os.Args[2:])
	case "agent":
		err = standInAgent(os.Args[2:])
	case "container":
		select {} // until it is killed
	case "lab":
		app := &cli.App{Name: "skeind", Commands: []*cli.Command{Command()}, ExitErrHandler: func(*cli.Context, error) {}}
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		err = app.RunContext(ctx, os.Args)
		stop()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "skeind: "+err.Error())
		os.Exit(1)
	}
}

type standIn struct {
	name, data, socket, cgroup, advertise, token string
	init                                         bool
	join                                         []string
}

func parseStandIn(args []string) (*standIn, error) {
	s := &standIn{}
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	f.StringVar(&s.name, "name", "", "")
	f.StringVar(&s.data, "data-dir", "", "")
	f.StringVar(&s.socket, "socket", "", "")
	f.StringVar(&s.cgroup, "cgroup-parent", "", "")
	f.StringVar(&s.advertise, "advertise", "", "")
	f.StringVar(&s.token, "token-file", "", "")
	f.BoolVar(&s.init, "init", false, "")
	f.Bool("demo-images", false, "")
	f.String("way-out", "", "")
	f.String("listen", "", "")
	f.Func("join", "", func(v string) error { s.join = append(s.join, v); return nil })
	return s, f.Parse(args)
}

func (s *standIn) path(parts ...string) string {
	return filepath.Join(append([]string{s.data}, parts...)...)
}

func (s *standIn) has(parts ...string) bool {
	_, err := os.Stat(s.path(parts...))
	return err == nil
}

// standInKeeper starts an agent as often as it ends, unless it is held.
func standInKeeper(args []string) error {
	s, err := parseStandIn(args)
	if err != nil {
		return err
	}
	if !s.has("joined") && !s.init && len(s.join) == 0 {
		return errors.New("no cluster: give --init or --join")
	}
	pid := func(name string, pid int) error {
		return writeAside(s.path("keeper", name), []byte(strconv.Itoa(pid)+"\n"))
	}
	if err := pid("keeper.pid", os.Getpid()); err != nil {
		return err
	}
	for {
		if s.has("keeper", "hold") {
			time.Sleep(5 * time.Millisecond) // as the stand-in's own way to look again
			continue
		}
		cmd := exec.Command("/proc/self/exe", append([]string{"agent"}, args...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		if err := pid("agent.pid", cmd.Process.Pid); err != nil {
			return err
		}
		_ = cmd.Wait()
	}
}

// standInAgent joins, starts a container that outlives it, and says its name to
// whoever asks by TCP or UDP.
func standInAgent(args []string) error {
	s, err := parseStandIn(args)
	if err != nil {
		return err
	}
	if len(s.join) > 0 && !s.has("joined") {
		token, err := os.ReadFile(s.token)
		if err != nil || strings.TrimSpace(string(token)) != "skein1-lab" {
			return fmt.Errorf("join %s with token %q: %w", s.join, token, err)
		}
		c, err := net.Dial("tcp", s.join[0])
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	if err := os.WriteFile(s.path("joined"), nil, 0o600); err != nil {
		return err
	}
	if err := s.container(); err != nil {
		return err
	}
	tcp, err := net.Listen("tcp4", ":7373")
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(s.name))
			_ = c.Close()
		}
	}()
	udp, err := net.ListenPacket("udp4", ":7373")
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(s.name), from)
		}
	}()
	_ = os.Remove(s.socket)
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		return err
	}
	server := connect.NewServer()
	skeinv1connect.RegisterClusterServiceHandler(server, &standInAPI{s: s})
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	return (&http.Server{Handler: mux, ReadHeaderTimeout: time.Second}).Serve(l)
}

// container leaves what a container leaves: a process in a cgroup and a network
// of its own, and a mount.
func (s *standIn) container() error {
	if text, err := os.ReadFile(s.path("container.pid")); err == nil {
		pid, _ := strconv.Atoi(string(text))
		if _, ok := findProcess(pid); ok {
			return nil
		}
	}
	mounted := s.path("run", "root fs")
	if err := os.MkdirAll(mounted, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("lab", mounted, "tmpfs", 0, ""); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", "container")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		return err
	}
	all, err := mounts()
	if err != nil {
		return err
	}
	pid := []byte(strconv.Itoa(cmd.Process.Pid))
	for _, m := range all {
		if m.kind != "cgroup2" && !strings.HasSuffix(m.point, "freezer") && !strings.HasSuffix(m.point, "pids") {
			continue
		}
		dir := filepath.Join(m.point, s.cgroup, "pod", "web")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), pid, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(s.path("container.pid"), pid, 0o600)
}

type standInAPI struct {
	skeinv1connect.UnimplementedClusterServiceHandler
	s *standIn
}

func (a *standInAPI) Version(context.Context, *skeinv1.VersionRequest) (*skeinv1.VersionResponse, error) {
	return &skeinv1.VersionResponse{Node: a.s.name}, nil
}

func (a *standInAPI) CreateToken(_ context.Context, req *skeinv1.CreateTokenRequest) (*skeinv1.CreateTokenResponse, error) {
	if req.GetRole() == "admin" {
		return &skeinv1.CreateTokenResponse{Token: "skeinp1-lab", CaPem: "ca of " + req.GetDescription()}, nil
	}
	return &skeinv1.CreateTokenResponse{Token: "skein1-lab"}, nil
}

// Get calls ready whoever has joined.
func (a *standInAPI) Get(context.Context, *skeinv1.GetRequest) (*skeinv1.GetResponse, error) {
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(a.s.socket)), "*", "data", "joined"))
	if err != nil {
		return nil, err
	}
	var items []string
	for _, p := range paths {
		items = append(items, fmt.Sprintf(`{"metadata":{"name":%q},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`,
			filepath.Base(filepath.Dir(filepath.Dir(p)))))
	}
	return &skeinv1.GetResponse{Document: []byte(`{"kind":"List","items":[` + strings.Join(items, ",") + `]}`)}, nil
}
