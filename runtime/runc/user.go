package runc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxAccounts bounds what is read of an image's passwd or group, in bytes.
const maxAccounts = 4 << 20

// lookupUser finds out as whom a container runs: "", "1000", "redis",
// "1000:1000", "redis:redis", names being the image's. Numbers need no entry.
func lookupUser(root, user string, groups []uint32) (specs.User, error) {
	name, group, explicit := strings.Cut(user, ":")
	if name == "" {
		name = "0"
	}
	u := specs.User{AdditionalGids: slices.Clone(groups)}
	account, found, err := findAccount(root, name)
	if err != nil {
		return u, err
	}
	switch id, numeric, err := number(name); {
	case err != nil:
		return u, err
	case found:
		u.UID, u.GID = account.uid, account.gid
	case numeric:
		u.UID = id
	default:
		return u, fmt.Errorf("user %q is not in the image's /etc/passwd", name)
	}
	if explicit && group != "" {
		u.GID, err = findGroup(root, group)
		return u, err
	}
	if found {
		more, err := groupsOf(root, account.name)
		if err != nil {
			return u, err
		}
		for _, gid := range more {
			if gid != u.GID && !slices.Contains(u.AdditionalGids, gid) {
				u.AdditionalGids = append(u.AdditionalGids, gid)
			}
		}
	}
	return u, nil
}

type account struct {
	name     string
	uid, gid uint32
}

// findAccount looks for a name or a number in passwd.
func findAccount(root, name string) (a account, found bool, err error) {
	id, numeric, _ := number(name)
	err = eachEntry(root, "etc/passwd", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		uid, isNumber, bad := number(f[2])
		gid, isNumber2, bad2 := number(f[3])
		if bad != nil || bad2 != nil || !isNumber || !isNumber2 {
			return true
		}
		if f[0] == name || (numeric && uid == id) {
			a, found = account{f[0], uid, gid}, true
		}
		return !found
	})
	return a, found, err
}

func findGroup(root, name string) (uint32, error) {
	gid, found, err := number(name)
	if found || err != nil {
		return gid, err
	}
	err = eachEntry(root, "etc/group", func(f []string) bool {
		if len(f) < 3 || f[0] != name {
			return true
		}
		var bad error
		gid, found, bad = number(f[2])
		return bad != nil || !found
	})
	if err == nil && !found {
		err = fmt.Errorf("group %q is not in the image's /etc/group", name)
	}
	return gid, err
}

// groupsOf lists the groups that name a user as a member.
func groupsOf(root, user string) ([]uint32, error) {
	var out []uint32
	err := eachEntry(root, "etc/group", func(f []string) bool {
		if len(f) >= 4 && slices.Contains(strings.Split(f[3], ","), user) {
			if gid, ok, err := number(f[2]); ok && err == nil {
				out = append(out, gid)
			}
		}
		return true
	})
	return out, err
}

// number reads a uid or gid. One beyond 31 bits is refused: it would turn
// negative, or into root, somewhere on the way.
func number(text string) (id uint32, ok bool, err error) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > math.MaxInt32 {
		return 0, false, fmt.Errorf("user or group %s is out of range", text)
	}
	return uint32(n), true, nil
}

// eachEntry calls each with the fields of the lines of a file in the image,
// until it returns false. A file that is missing has no lines.
func eachEntry(root, path string, each func(fields []string) bool) error {
	f, err := openInRoot(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the image's %s: %w", path, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxAccounts))
	for lines.Scan() {
		if !each(strings.Split(lines.Text(), ":")) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the image's %s: %w", path, err)
	}
	return nil
}

// openInRoot opens a regular file of an image, whose links, absolute ones too,
// lead nowhere but inside it.
func openInRoot(root, path string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(dir, path, &how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path) //nolint:gosec // a descriptor is not negative
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
