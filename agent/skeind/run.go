package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/agent"
	"github.com/skein-dev/skein/agent/lab"
	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/agent/skeind/payload"
	"github.com/skein-dev/skein/runtime/keeper"
	"github.com/skein-dev/skein/runtime/runc"
)

func runFlags() []cli.Flag {
	env := func(name string) []string { return []string{"SKEIN_" + name} }
	return []cli.Flag{
		&cli.BoolFlag{Name: "init", Usage: "make a new cluster, of which this is the first machine", EnvVars: env("INIT")},
		&cli.StringSliceFlag{Name: "join", Usage: "`ADDRESS` of a machine of the cluster to join", EnvVars: env("JOIN")},
		&cli.StringFlag{Name: "token", Usage: "the `TOKEN` to join with", EnvVars: env("TOKEN")},
		&cli.StringFlag{Name: "token-file", Usage: "a `FILE` with the token to join with", EnvVars: env("TOKEN_FILE")},
		&cli.StringFlag{Name: "config", Usage: "a YAML `FILE` with these same settings", EnvVars: env("AGENT_CONFIG")}, // SKEIN_CONFIG is that of skein
		&cli.StringFlag{Name: "data-dir", Usage: "`FOLDER` where state is kept", Value: "/var/lib/skein", EnvVars: env("DATA_DIR")},
		&cli.StringFlag{Name: "listen", Usage: "`ADDRESS` to listen on, TCP and UDP", Value: "0.0.0.0:7373", EnvVars: env("LISTEN")},
		&cli.StringFlag{Name: "advertise", Usage: "`ADDRESS` by which other machines reach this one", EnvVars: env("ADVERTISE")},
		&cli.StringFlag{Name: "name", Usage: "this machine's `NAME` (default: its host name)", EnvVars: env("NAME")},
		&cli.StringSliceFlag{Name: "label", Usage: "`KEY=VALUE` to choose this machine by", EnvVars: env("LABEL")},
		&cli.StringFlag{Name: "socket", Usage: "`PATH` of the local socket", Value: "/run/skein/skein.sock", EnvVars: env("SOCKET")},
		&cli.StringFlag{Name: "log-level", Usage: "least `LEVEL` to log: debug, info, warn or error", Value: "info", EnvVars: env("LOG_LEVEL")},
		&cli.StringFlag{Name: "log-format", Usage: "`FORMAT` of the log: text or json", Value: "text", EnvVars: env("LOG_FORMAT")},
		&cli.StringFlag{Name: "snapshot-dir", Usage: "`FOLDER` to keep snapshots of the cluster in, while this machine votes", EnvVars: env("SNAPSHOT_DIR")},
		&cli.DurationFlag{Name: "snapshot-every", Usage: "`TIME` between two of them", Value: time.Hour, EnvVars: env("SNAPSHOT_EVERY")},
		&cli.IntFlag{Name: "snapshot-keep", Usage: "how `MANY` of them to keep", Value: 24, EnvVars: env("SNAPSHOT_KEEP")},
		&cli.StringFlag{Name: "registry-config", Usage: "`FOLDER` that says how to reach registries, as containerd's certs.d", Value: "/etc/skein/certs.d", EnvVars: env("REGISTRY_CONFIG")},
		&cli.StringFlag{Name: "docker-config", Usage: "`FILE` of docker's with credentials for registries", Value: dockerConfig(), EnvVars: env("DOCKER_CONFIG")},
		&cli.StringFlag{Name: "pod-network", Usage: "how Pods reach those of other machines, `MODE`: auto, tunnel or direct", Value: "auto", EnvVars: env("POD_NETWORK")},
		&cli.StringFlag{Name: "seccomp-dir", Usage: "`FOLDER` of seccomp profiles that Pods may name", Value: "/etc/skein/seccomp", EnvVars: env("SECCOMP_DIR")},
		&cli.Float64Flag{Name: "image-gc-high", Usage: "`PERCENT` of the disk in use from which on images go that nothing needs", Value: 85, EnvVars: env("IMAGE_GC_HIGH")},
		&cli.Float64Flag{Name: "image-gc-low", Usage: "`PERCENT` until which they go", Value: 80, EnvVars: env("IMAGE_GC_LOW")},
		&cli.DurationFlag{Name: "image-max-age", Usage: "for what `TIME` an image may be unused; -1s: for ever", Value: 30 * 24 * time.Hour, EnvVars: env("IMAGE_MAX_AGE")},
		&cli.DurationFlag{Name: "image-min-age", Usage: "for what `TIME` one stays after its last use, however full the disk is", Value: 2 * time.Minute, EnvVars: env("IMAGE_MIN_AGE")},
		&cli.StringFlag{Name: "way-out", Hidden: true, Usage: "`SOCKET` of a lab, by which to reach registries", EnvVars: env("WAY_OUT")},
		&cli.StringFlag{Name: "cgroup-parent", Hidden: true, Value: "/skein", EnvVars: env("CGROUP_PARENT")},
		&cli.BoolFlag{Name: "demo-images", Usage: "keep the images skein/demo:v1, :v2 and :bad", EnvVars: env("DEMO_IMAGES")},
	}
}

// dockerConfig is where docker keeps the credentials of whom this program runs as.
func dockerConfig() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = "/root"
		}
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json")
}

func runCommand() *cli.Command {
	return &cli.Command{
		Name:  runVerb,
		Usage: "run the agent of this machine, and keep it running",
		UsageText: `skeind run --init
skeind run --join 192.0.2.10:7373 --token skein1-…
skeind run                                     (with state in the data directory: go on)`,
		Flags:  append(runFlags(), &cli.BoolFlag{Name: "check", Usage: "say whether these settings can work, and do nothing"}),
		Action: run,
	}
}

// run turns this process into the keeper, whose child the agent is: the same
// program with the same flags.
func run(c *cli.Context) error {
	cfg, err := config(c)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return &agent.UsageError{Text: "the agent makes containers, which takes root", Hint: "run it with sudo, or as a service"}
	}
	if err := agent.Check(cfg); err != nil {
		return err
	}
	if c.Bool("check") {
		return nil
	}
	program, err := payload.Keeper()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if err := os.MkdirAll(cfg.KeeperDir, 0o700); err != nil {
		return err
	}
	file, err := runc.Seal("skeeper", program)
	if err != nil {
		return fmt.Errorf("carry out the keeper: %w", err)
	}
	again := strings.Join(append([]string{self}, os.Args[1:]...), "\x00")
	if err := keeper.WriteAside(keeper.Dir(cfg.KeeperDir).Reload(), []byte(again)); err != nil {
		return fmt.Errorf("note how to reload: %w", err)
	}
	prefer(cfg.Logger)
	argv := append([]string{"skeeper", cfg.KeeperDir, "--", self, agentVerb}, os.Args[2:]...)
	path := "/proc/self/fd/" + strconv.Itoa(int(file.Fd()))
	return fmt.Errorf("start the keeper: %w", unix.Exec(path, argv, keeper.Environ()))
}

// The keeper and the agent hold a machine's Pods together, and are judged by how
// soon they answer: they come before what they run, and die after it.
// Containers begin anew at 0.
const (
	niceness = -10
	oomScore = -999
)

// prefer asks the kernel for that, for this process and its children. Where it
// may not be, skein works all the same, if more slowly under load.
func prefer(log *slog.Logger) {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceness); err != nil {
		log.Warn("cannot raise the agent's priority", "err", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(oomScore)), 0); err != nil {
		log.Debug("cannot protect the agent from running out of memory", "err", err)
	}
}

// frugal trades a little of the collector's time for memory: an agent allocates
// little, and shares its machine with those it works for. Beyond a few cores
// more threads only wake each other.
func frugal() {
	debug.SetGCPercent(40)
	runtime.GOMAXPROCS(min(4, runtime.NumCPU()))
}

const (
	givesBackEvery = 30 * time.Second
	// givesBack is how many bytes the collector may hold free: more is what a storm
	// has left behind, of nodes that joined or of Pods that were placed.
	givesBack = 16 << 20
)

// giveBack returns memory that nobody uses to the kernel until ctx ends. The
// collector does so by itself, but keeps a tenth of the most that it had, and what
// fell free since it last ran.
func giveBack(ctx context.Context) {
	free := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	again := time.NewTicker(givesBackEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		if metrics.Read(free); free[0].Value.Uint64() > givesBack {
			debug.FreeOSMemory()
		}
	}
}

func agentCommand() *cli.Command {
	return &cli.Command{
		Name: agentVerb, Hidden: true, Flags: runFlags(),
		Usage: "the agent itself, as the keeper starts it",
		Action: func(c *cli.Context) error {
			cfg, err := config(c)
			if err != nil {
				return err
			}
			cfg.Beat = keeper.TakeBeat()
			cfg.Runc, cfg.Demo = payload.Runc, payload.DemoImages
			frugal()
			go giveBack(c.Context)
			return agent.Run(c.Context, cfg)
		},
	}
}

// config makes the agent's configuration of flags, variables and file, in this
// order of precedence.
func config(c *cli.Context) (agent.Config, error) {
	var cfg agent.Config
	if c.Args().Present() {
		return cfg, &agent.UsageError{Text: fmt.Sprintf("unexpected argument %q", c.Args().First())}
	}
	if err := fromFile(c); err != nil {
		return cfg, err
	}
	log, err := logger(c.String("log-level"), c.String("log-format"))
	if err != nil {
		return cfg, err
	}
	self, err := os.Executable()
	if err != nil {
		return cfg, fmt.Errorf("find this program: %w", err)
	}
	data, err := filepath.Abs(c.String("data-dir"))
	if err != nil {
		return cfg, err
	}
	cfg = agent.Config{
		DataDir: data, KeeperDir: filepath.Join(data, "keeper"), Socket: c.String("socket"), PodNetwork: c.String("pod-network"),
		Name: c.String("name"), Init: c.Bool("init"), Join: c.StringSlice("join"),
		SnapshotDir: c.String("snapshot-dir"), SnapshotEvery: c.Duration("snapshot-every"), SnapshotKeep: c.Int("snapshot-keep"),
		CgroupParent: c.String("cgroup-parent"), DemoImages: c.Bool("demo-images"),
		UnpackArgs: []string{self, unpackVerb}, CopyArgs: []string{self, copyVerb}, Holder: payload.Keeper, RuncVersion: payload.RuncVersion,
		Version: version, Logger: log, Labels: map[string]string{},
		Announcement: announce,
	}
	cfg.RegistryConfig, cfg.RegistryKeys = c.String("registry-config"), c.String("docker-config")
	cfg.SeccompDir = c.String("seccomp-dir")
	cfg.Reclaim = node.Reclaim{
		High: c.Float64("image-gc-high") / 100, Low: c.Float64("image-gc-low") / 100,
		MaxAge: c.Duration("image-max-age"), MinAge: c.Duration("image-min-age"),
	}
	if r := cfg.Reclaim; r.High <= 0 || r.High > 1 || r.Low <= 0 || r.Low > r.High {
		return cfg, &agent.UsageError{Text: "--image-gc-low and --image-gc-high are percentages, the first not above the second"}
	}
	if socket := c.String("way-out"); socket != "" {
		cfg.RegistryDial = lab.Egress(socket)
	}
	if format != "" {
		n, err := strconv.ParseUint(format, 10, 32)
		if err != nil {
			return cfg, fmt.Errorf("this program was built with the format %q, which is no number", format)
		}
		cfg.Format = uint32(n)
	}
	if cfg.Listen, err = address("listen", c.String("listen")); err != nil {
		return cfg, err
	}
	if c.String("advertise") != "" {
		if cfg.Advertise, err = address("advertise", c.String("advertise")); err != nil {
			return cfg, err
		}
	}
	for _, text := range c.StringSlice("label") {
		k, v, ok := strings.Cut(text, "=")
		if !ok || k == "" {
			return cfg, &agent.UsageError{Text: fmt.Sprintf("--label %q: it is KEY=VALUE", text)}
		}
		cfg.Labels[k] = v
	}
	if cfg.Token, err = token(c); err != nil && agent.Joined(cfg) {
		err = nil // a token is for joining, and who has joined may remove it
	}
	return cfg, err
}

// announce tells whoever started this program by hand. What it says holds a
// token, and a journal keeps everything for many eyes.
func announce(text string) {
	if os.Getenv("JOURNAL_STREAM") != "" {
		text = `This machine is the first of a new cluster. "skein token create" prints the line for the others.`
	}
	fmt.Println(text)
}

func token(c *cli.Context) (string, error) {
	if c.String("token-file") == "" {
		return c.String("token"), nil
	}
	text, err := os.ReadFile(c.String("token-file"))
	if err != nil {
		return "", &agent.UsageError{Text: "--token-file: " + err.Error()}
	}
	return strings.TrimSpace(string(text)), nil
}

// address reads ip:port; the port may be left out.
func address(flag, text string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(addr, agent.DefaultPort), nil
	}
	addr, err := netip.ParseAddrPort(text)
	if err == nil {
		return addr, nil
	}
	if host, port, serr := net.SplitHostPort(text); serr == nil && host == "" {
		return netip.ParseAddrPort("0.0.0.0:" + port)
	}
	return addr, &agent.UsageError{Text: fmt.Sprintf("--%s %q: it is IP:PORT, like 192.0.2.10:7373", flag, text)}
}

func logger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, &agent.UsageError{Text: fmt.Sprintf("--log-level %q: it is debug, info, warn or error", level)}
	}
	opt := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, opt)), nil
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, opt)), nil
	}
	return nil, &agent.UsageError{Text: fmt.Sprintf("--log-format %q: it is text or json", format)}
}

// fromFile sets what the file says and neither flag nor variable does.
func fromFile(c *cli.Context) error {
	path := c.String("config")
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return &agent.UsageError{Text: "--config: " + err.Error()}
	}
	var settings map[string]any
	if err := yaml.Unmarshal(text, &settings); err != nil {
		return &agent.UsageError{Text: fmt.Sprintf("--config %s: %v", path, err)}
	}
	known := c.Command.Flags
	for name, value := range settings {
		if name == "config" || !slices.ContainsFunc(known, func(f cli.Flag) bool { return f.Names()[0] == name }) {
			return &agent.UsageError{Text: fmt.Sprintf("--config %s: there is no setting %q", path, name), Hint: "settings have the names of the flags: see \"skeind run --help\""}
		}
		if c.IsSet(name) {
			continue
		}
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		for _, v := range list {
			if err := c.Set(name, fmt.Sprint(v)); err != nil {
				return &agent.UsageError{Text: fmt.Sprintf("--config %s: %s: %v", path, name, err)}
			}
		}
	}
	return nil
}
