package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What makes a disk of a node's own, in the node's folder. The image is a file of
// this machine, the device the same file seen through a process that can make it
// bad, and a loop device on that has the file system in which the data lies.
const (
	diskImage  = "disk.img"
	diskDevice = "disk"
	diskMode   = "disk.json" // its diskFault; absent: it is well
	diskLog    = "disk.log"
	diskPID    = "disk.pid"
	diskFill   = ".lab-fill" // what fills it
	leastDisk  = 64 << 20
	slowFlush  = 150 * time.Millisecond // makes a sync of the log take about 500 ms
)

func (l *Lab) diskFile(n *node, name string) string { return filepath.Join(l.nodeDir(n), name) }

// attach gives a node its disk, if nodes here have one and it is not there.
func (l *Lab) attach(ctx context.Context, n *node) error {
	if l.Disk == 0 || isMount(l.dataDir(n)) {
		return nil
	}
	if err := os.MkdirAll(l.dataDir(n), 0o700); err != nil {
		return fmt.Errorf("make the directories of node %s: %w", n.Name, err)
	}
	if !until(ctx, killWait, func() bool { return !l.served(n) || isMount(l.diskFile(n, diskDevice)) }) {
		return fault("", "somebody still uses the disk of node %s from before", n.Name)
	}
	image, device := l.diskFile(n, diskImage), l.diskFile(n, diskDevice)
	if err := l.format(image); err != nil {
		return err
	}
	if err := l.serveDisk(ctx, n, image, device); err != nil {
		return err
	}
	loop, err := attachLoop(device)
	if err != nil {
		return fmt.Errorf("give node %s a disk: %w", n.Name, err)
	}
	defer loop.Close() // it clears itself once it is not mounted any more
	if err := unix.Mount(loop.Name(), l.dataDir(n), "ext4", unix.MS_NOATIME, "errors=remount-ro,noinit_itable"); err != nil {
		return fmt.Errorf("mount the disk of node %s: %w", n.Name, err)
	}
	return nil
}

func isMount(path string) bool {
	all, err := mounts()
	return err == nil && slices.ContainsFunc(all, func(m mount) bool { return m.point == path })
}

// format makes an image, or repairs one that is there.
func (l *Lab) format(image string) error {
	if _, err := os.Stat(image); err == nil {
		out, err := exec.Command("e2fsck", "-y", image).CombinedOutput() //nolint:gosec // a file of ours
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() < 4 { // it has repaired what there was
			err = nil
		}
		if err != nil {
			return fmt.Errorf("check %s: %w: %s", image, err, out)
		}
		return nil
	}
	file, err := os.OpenFile(image, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make a disk: %w", err)
	}
	if err := errors.Join(file.Truncate(l.Disk), file.Close()); err != nil {
		return fmt.Errorf("make a disk: %w", err)
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", image).CombinedOutput() //nolint:gosec // a file of ours
	if errors.Is(err, exec.ErrNotFound) {
		_ = os.Remove(image)
		return fault("install e2fsprogs", "there is no mkfs.ext4, which makes the disks of nodes")
	}
	if err != nil {
		_ = os.Remove(image)
		return fmt.Errorf("make a file system in %s: %w: %s", image, err, out)
	}
	return nil
}

// serveDisk starts the process under a node's disk. It ends when the disk is
// unmounted.
func (l *Lab) serveDisk(ctx context.Context, n *node, image, device string) error {
	if err := os.Remove(l.diskFile(n, diskMode)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if isMount(device) {
		return nil
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		return fmt.Errorf("make a disk: %w", err)
	}
	log, err := os.OpenFile(l.diskFile(n, diskLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of a disk: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(l.exe, "lab", "serve-disk", image, device, l.diskFile(n, diskMode)) //nolint:gosec // this very program
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", plainEnv(), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a disk: %w", err)
	}
	ended := make(chan struct{})
	go func() { // ends with the child, or with this process
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}()
	w := &launch{done: ended}
	if !until(ctx, startWait, func() bool { return w.ended() || isMount(device) }) || w.ended() {
		return fault("read "+log.Name(), "the disk of node %s did not start: %s", n.Name, lastLine(log.Name()))
	}
	return nil
}

func (l *Lab) served(n *node) bool {
	_, ok := readPID(l.diskFile(n, diskPID), "")
	return ok
}

// endDisks waits for the processes under disks that were unmounted.
func (l *Lab) endDisks(ctx context.Context) error {
	left := func() (out []process, _ error) {
		paths, err := filepath.Glob(filepath.Join(l.dir, "n*", diskPID))
		for _, path := range paths {
			if p, ok := readPID(path, ""); ok {
				out = append(out, p)
			}
		}
		return out, err
	}
	gone := func() bool { all, err := left(); return err == nil && len(all) == 0 }
	if until(ctx, killWait, gone) {
		return nil
	}
	return exterminate(ctx, left)
}

// ServeDisk is that process.
func ServeDisk(image, device, mode string) error {
	self := filepath.Join(filepath.Dir(image), diskPID)
	if err := writeAside(self, []byte(strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return err
	}
	defer func() { _ = os.Remove(self) }() // it may be gone with the lab
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open a disk: %w", err)
	}
	defer file.Close()
	b, err := mountBlockFile(file, device, func() diskFault { return readFault(mode) })
	if err != nil {
		return err
	}
	return b.serve()
}

func readFault(mode string) diskFault {
	var f diskFault
	text, err := os.ReadFile(mode)
	if err != nil || json.Unmarshal(text, &f) != nil {
		return diskFault{}
	}
	return f
}

// attachLoop puts a loop device on a file.
func attachLoop(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer func() { _ = unix.Close(control) }()
	for range 20 { // others may take the one that was free
		number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a loop device: %w", err)
		}
		loop, err := os.OpenFile("/dev/loop"+strconv.Itoa(number), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		cfg := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}} //nolint:gosec // a descriptor is small
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &cfg); err == nil {
			return loop, nil
		}
		_ = loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configure %s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("no loop device is free")
}

// A DiskState is what a node's disk can be made to do.
type DiskState string

// The states. A disk that is ReadOnly has failed: its file system takes nothing
// more until its machine has started again.
const (
	DiskFull     DiskState = "full"
	DiskSlow     DiskState = "slow"
	DiskHangs    DiskState = "hang"
	DiskReadOnly DiskState = "ro"
	DiskWell     DiskState = "heal"
)

// SetDisk makes the disk of a node bad, or well again. delay is what a flush takes on
// a slow disk; a file system needs two to four of them to sync a file.
func (l *Lab) SetDisk(name string, state DiskState, delay time.Duration) error {
	n, err := l.powered(name)
	if err != nil {
		return err
	}
	if l.Disk == 0 || !isMount(l.dataDir(n)) {
		return fault("raise another with \"skeind lab up --disk 2G --name …\"", "the nodes of lab %q have no disks of their own", l.Name)
	}
	switch state {
	case DiskFull:
		return l.fill(n)
	case DiskSlow:
		return l.setFault(n, diskFault{Delay: delay})
	case DiskHangs:
		return l.setFault(n, diskFault{Hang: true})
	case DiskReadOnly:
		if err := l.setFault(n, diskFault{Fail: true}); err != nil {
			return err
		}
		return l.awaitReadOnly(n)
	case DiskWell:
		return l.mend(n)
	}
	return misuse("", "a disk is %s, %s, %s, %s or %s", DiskFull, DiskSlow, DiskHangs, DiskReadOnly, DiskWell)
}

func (l *Lab) setFault(n *node, f diskFault) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return writeAside(l.diskFile(n, diskMode), text)
}

// mend makes a disk well. One whose file system gave up is well at the next
// start of its machine.
func (l *Lab) mend(n *node) error {
	if err := os.Remove(l.diskFile(n, diskMode)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if l.readOnly(n) {
		return fault("skeind lab kill "+n.Name+l.flag()+" && skeind lab heal"+l.flag(), "the file system of node %s has given up, and takes nothing more until the machine starts again", n.Name)
	}
	if err := os.Remove(filepath.Join(l.dataDir(n), diskFill)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// fill takes all room that there is.
func (l *Lab) fill(n *node) error {
	file, err := os.OpenFile(filepath.Join(l.dataDir(n), diskFill), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("fill the disk of node %s: %w", n.Name, err)
	}
	defer file.Close()
	at := int64(0)
	if info, err := file.Stat(); err == nil {
		at = info.Size()
	}
	for piece := int64(8 << 20); piece >= 4096; {
		switch err := unix.Fallocate(int(file.Fd()), 0, at, piece); {
		case err == nil:
			at += piece
		case errors.Is(err, unix.ENOSPC):
			piece /= 2
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("fill the disk of node %s: %w", n.Name, err)
		}
	}
	return nil
}

// awaitReadOnly writes until the file system has met an error and given up.
func (l *Lab) awaitReadOnly(n *node) error {
	for end := time.Now().Add(killWait); time.Now().Before(end); {
		if l.readOnly(n) {
			return nil
		}
		file, err := os.OpenFile(filepath.Join(l.dataDir(n), diskFill), os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o600)
		if err == nil {
			_, _ = file.Write(make([]byte, 4096)) // is to fail
			_ = file.Close()
		}
	}
	return fault("", "the file system of node %s does not give up", n.Name)
}

// readOnly tries: a file system that gave up need not say so where it is mounted.
func (l *Lab) readOnly(n *node) bool {
	file, err := os.OpenFile(filepath.Join(l.dataDir(n), diskFill), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_ = file.Close() // nothing was written
	}
	return errors.Is(err, unix.EROFS)
}

// freeDisks lets go of disks that hang: nobody dies who waits for one.
func (l *Lab) freeDisks(nodes ...*node) {
	for _, n := range nodes {
		if l.Disk > 0 {
			_ = os.Remove(l.diskFile(n, diskMode)) // absent: it does not hang
		}
	}
}
