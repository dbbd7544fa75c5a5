package image

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Config is what an image says of the containers made from it. All of it may
// come from a stranger; labels are left out because they must never act.
type Config struct {
	Entrypoint   []string
	Cmd          []string
	Env          []string // K=V
	WorkingDir   string   // absolute and clean, or empty
	User         string   // "", "1000", "redis", "1000:1000", "redis:redis"
	ExposedPorts []string // sorted: "8080/tcp"
	StopSignal   string   // "SIGTERM", "15", or empty
	Volumes      []string // folders that its program writes to: absolute and clean, sorted
}

// Bounds of a Config. The kernel's own on arguments and environment is 2 MiB
// together.
const (
	maxStrings = 4096
	maxText    = 512 << 10 // bytes of arguments and environment together
	maxVolumes = 128
)

// configuration is the part of a configuration blob that is used.
type configuration struct {
	Config
	diffs []digest.Digest // of the layers, uncompressed, lowest first
}

// Config returns what the image with this digest says of its containers.
func (s *Store) Config(ctx context.Context, digest string) (Config, error) {
	t, err := s.known(ctx, digest)
	if err != nil {
		return Config{}, err
	}
	return t.config.Config, nil
}

func parseConfiguration(data []byte) (*configuration, error) {
	var img ocispec.Image
	if err := json.Unmarshal(data, &img); err != nil {
		return nil, invalid("no image configuration: %w", err)
	}
	if img.OS != "" && img.Architecture != "" && !thisPlatform.Match(img.Platform) {
		return nil, &InvalidError{Err: errPlatform}
	}
	if img.RootFS.Type != "layers" && len(img.RootFS.DiffIDs) > 0 {
		return nil, invalid("root file system of type %q", img.RootFS.Type)
	}
	for _, d := range img.RootFS.DiffIDs {
		if _, err := parseDigest(d.String()); err != nil {
			return nil, err
		}
	}
	c := &configuration{diffs: img.RootFS.DiffIDs, Config: Config{
		Entrypoint:   img.Config.Entrypoint,
		Cmd:          img.Config.Cmd,
		Env:          img.Config.Env,
		User:         img.Config.User,
		ExposedPorts: slices.Sorted(maps.Keys(img.Config.ExposedPorts)),
		StopSignal:   img.Config.StopSignal,
	}}
	for dir := range img.Config.Volumes {
		c.Volumes = append(c.Volumes, path.Clean("/"+dir))
	}
	slices.Sort(c.Volumes)
	c.Volumes = slices.Compact(c.Volumes)
	if dir := img.Config.WorkingDir; dir != "" {
		c.WorkingDir = path.Clean("/" + dir)
	}
	return c, c.check()
}

func (c *Config) check() error {
	if len(c.Volumes) > maxVolumes {
		return invalid("%d volumes, %d are allowed", len(c.Volumes), maxVolumes)
	}
	texts := slices.Concat(c.Entrypoint, c.Cmd, c.Env, c.ExposedPorts, c.Volumes)
	if len(texts) > maxStrings {
		return invalid("%d arguments, variables and ports, %d are allowed", len(texts), maxStrings)
	}
	sum := 0
	for _, t := range append(texts, c.WorkingDir, c.User, c.StopSignal) {
		if sum += len(t) + 1; sum > maxText {
			return invalid("more than %d KiB of arguments and variables", maxText>>10)
		}
		if strings.IndexByte(t, 0) >= 0 {
			return invalid("%.40q has a zero byte in it", t)
		}
	}
	for _, e := range c.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return invalid("%.40q is no variable: NAME=VALUE", e)
		}
	}
	if !validSignal(c.StopSignal) {
		return invalid("%.40q is no signal", c.StopSignal)
	}
	return checkUser(c.User)
}

// checkUser refuses numbers that no kernel has: one past 32 bits has been taken
// for root.
func checkUser(user string) error {
	if len(user) > 256 || strings.ContainsAny(user, "/\n\r\t ") || strings.Count(user, ":") > 1 {
		return invalid("%.40q is no user", user)
	}
	for part := range strings.SplitSeq(user, ":") {
		if strings.Trim(part, "0123456789") != "" || part == "" {
			continue // a name, which the image's own /etc/passwd resolves
		}
		if n, err := strconv.ParseUint(part, 10, 64); err != nil || n > math.MaxInt32 {
			return invalid("%.40q is no user: numbers go up to %d", user, math.MaxInt32)
		}
	}
	return nil
}

func validSignal(s string) bool {
	if len(s) > 16 {
		return false
	}
	return strings.Trim(strings.ToUpper(s), "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-") == ""
}
