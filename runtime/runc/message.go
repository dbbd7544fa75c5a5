package runc

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// The file for a container's last message is alone in a file system in memory of
// its own: what a container writes there counts as its memory, and cannot fill
// anything of the machine's.
const (
	messageOptions = "mode=700,size=64k,nr_inodes=2" // the folder and the file
	messageFile    = "message"
)

func (d *Driver) messageDir(id container.ID) string {
	return filepath.Join(d.bundle(id), "message")
}

// makeMessage makes the file that a container mounts. All its users may write.
func (d *Driver) makeMessage(id container.ID) error {
	dir := d.messageDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("message", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, messageOptions); err != nil {
		return &fs.PathError{Op: "mount", Path: dir, Err: err}
	}
	f, err := os.OpenFile(filepath.Join(dir, messageFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o666), f.Close())
}

// message reads the end of what a container left. It can but have written to the
// file, which is no less looked at as what a stranger has made.
func (d *Driver) message(id container.ID) string {
	f, err := os.OpenFile(filepath.Join(d.messageDir(id), messageFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "" // it has none, or the machine was started anew
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	from := max(0, info.Size()-container.MaxMessage)
	text, err := io.ReadAll(io.NewSectionReader(f, from, container.MaxMessage))
	if err != nil {
		d.log.Warn("a container's last message cannot be read", "container", id, "err", err)
	}
	return container.Clip(text, container.MaxMessage)
}
