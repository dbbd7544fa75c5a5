package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	refs "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skein-dev/skein/runtime/image"
	imageregistry "github.com/skein-dev/skein/runtime/image/registry"
)

// pulledImage is one that "make images" makes of Debian's packages.
const pulledImage = "postgres"

// pulls times how an image comes from a registry of this machine, by the store that
// agents use, by skopeo and umoci, and by containerd's own client, by turns.
func pulls(ctx context.Context, b *bench) error {
	for _, tool := range []string{"docker-registry", "skopeo", "umoci", "containerd", "ctr"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: make deps PACKAGES='docker-registry skopeo umoci containerd'", err)
		}
	}
	at, end, err := b.registry(ctx)
	if err != nil {
		return err
	}
	defer end()
	ours := figure{name: "an image of 158 MB, 427 MB unpacked: pulled and unpacked", unit: "s", goal: "1/0.8 of the fastest beside it"}
	memory := figure{name: "memory while doing so, at most", unit: "MB", goal: "120 MB"}
	var theirs, ctr []float64
	for range max(b.runs/4, 1) {
		took, peak, err := b.pullOurs(ctx, at)
		if err != nil {
			return err
		}
		ours.values, memory.values = append(ours.values, seconds(took)), append(memory.values, peak)
		if took, err = b.pullSkopeo(ctx, at); err != nil {
			return err
		}
		theirs = append(theirs, seconds(took))
		if took, err = b.pullContainerd(ctx, at); err != nil {
			return err
		}
		ctr = append(ctr, seconds(took))
	}
	fastest := min(median(theirs), median(ctr))
	ours.beside = fmt.Sprintf("skopeo+umoci %s s, ctr %s s: %s of the fastest's rate",
		number(median(theirs)), number(median(ctr)), number(fastest/median(ours.values)))
	b.tell(ours)
	b.tell(memory)
	return nil
}

// registry runs Debian's docker-registry on loopback with the image in it.
func (b *bench) registry(ctx context.Context) (at string, end func(), err error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	at = ln.Addr().String()
	_ = ln.Close() // for the registry to take
	config := filepath.Join(b.dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", filepath.Join(b.dir, "registry"), at)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if err := b.upload(ctx, at); err != nil {
		end()
		return "", nil, err
	}
	return at, end, nil
}

func (b *bench) upload(ctx context.Context, at string) error {
	for began := time.Now(); ; {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Since(began) > 20*time.Second || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	img, err := tarball.ImageFromPath(filepath.Join(".cache", "images", pulledImage+".tar"), nil)
	if err != nil {
		return fmt.Errorf("%w: make images", err)
	}
	ref, err := refs.ParseReference(at+"/"+pulledImage+":1", refs.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(ref, img, remote.WithContext(ctx))
}

// pullOurs pulls in a process of its own, and tells its memory: the most that it had
// resident together with the most that one of its children had.
func (b *bench) pullOurs(ctx context.Context, at string) (time.Duration, float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, 0, err
	}
	dir := filepath.Join(b.dir, "ours")
	defer func() { _ = os.RemoveAll(dir) }()
	cmd := exec.CommandContext(ctx, self, "pull", dir, at)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, err
	}
	var said pullSaid
	if err := json.Unmarshal(out, &said); err != nil {
		return 0, 0, err
	}
	return said.Took, said.MB, nil
}

type pullSaid struct {
	Took time.Duration
	MB   float64
}

// pullAlone is the process that pullOurs starts.
func pullAlone(dir, at string) error {
	log := slog.New(slog.DiscardHandler)
	skeind, err := filepath.Abs("bin/skeind")
	if err != nil {
		return err
	}
	s, err := image.Open(image.Options{Dir: dir, UnpackCommand: []string{skeind, "unpack-layer"}, Logger: log})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	ctx := context.Background()
	began := time.Now()
	client := imageregistry.New(imageregistry.Options{Dial: new(net.Dialer).DialContext, Logger: log})
	from, err := client.Open(ctx, at+"/"+pulledImage+":1")
	if err != nil {
		return err
	}
	defer from.Close()
	desc, err := from.Resolve(ctx)
	if err != nil {
		return err
	}
	if err := s.Fetch(ctx, at+"/"+pulledImage+":1", desc, from, nil); err != nil {
		return err
	}
	took := time.Since(began)
	var own, children syscall.Rusage
	if err := errors.Join(syscall.Getrusage(syscall.RUSAGE_SELF, &own), syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children)); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(pullSaid{Took: took, MB: float64(own.Maxrss+children.Maxrss) / 1e3})
}

func (b *bench) pullSkopeo(ctx context.Context, at string) (time.Duration, error) {
	dir := filepath.Join(b.dir, "skopeo")
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	return spent(func() error {
		if err := quietly(ctx, "skopeo", "copy", "-q", "--src-tls-verify=false", "--insecure-policy", "docker://"+at+"/"+pulledImage+":1", "oci:"+dir+"/oci:1"); err != nil {
			return err
		}
		return quietly(ctx, "umoci", "unpack", "--image", dir+"/oci:1", dir+"/bundle")
	})
}

// pullContainerd pulls by a containerd of its own, in mount and network namespaces
// that see no other.
func (b *bench) pullContainerd(ctx context.Context, at string) (took time.Duration, err error) {
	dir := filepath.Join(b.dir, "containerd")
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = %q\n",
		dir+"/root", dir+"/state", dir+"/sock")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return 0, err
	}
	daemon := exec.Command("containerd", "--config", config, "--log-level", "error")
	daemon.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
	if err := daemon.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
	}()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if err := quietly(ctx, "ctr", "-a", dir+"/sock", "version"); err == nil {
			break
		} else if time.Since(began) > 20*time.Second {
			return 0, err
		}
	}
	return spent(func() error {
		return quietly(ctx, "ctr", "-a", dir+"/sock", "images", "pull", "--plain-http", at+"/"+pulledImage+":1")
	})
}

func quietly(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s: %w: %s", name, err, lines[len(lines)-1])
	}
	return nil
}
