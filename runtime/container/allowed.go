package container

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Allowed is what the namespace of a container allows beyond the defaults. It is
// filled in from the namespace alone, never from what a Pod asks for, so that a
// Driver can hold what is to run against it.
type Allowed struct {
	HostPaths    bool     // mount folders of the machine
	Privileged   bool     // be privileged, and so have any capability, and the machine's processes and IPC
	Capabilities []string // beyond DefaultCapabilities, without CAP_; "ALL": any
}

// DefaultCapabilities are those that Docker leaves to a container, without CAP_.
// A container may ask for them without anybody's word.
func DefaultCapabilities() []string {
	return []string{
		"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
		"NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
	}
}

// Capability tells whether a capability may be had: by a name with or without
// CAP_, or "ALL".
func (a Allowed) Capability(name string) bool {
	name = strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	return a.Privileged || slices.Contains(DefaultCapabilities(), name) ||
		slices.Contains(a.Capabilities, "ALL") || slices.Contains(a.Capabilities, name)
}

// ErrNoProfile says that a machine has no seccomp profile of that name, or none
// that it can read.
var ErrNoProfile = errors.New("no such seccomp profile")

// ErrNotAllowed says that a container asks for more than its namespace allows.
var ErrNotAllowed = errors.New("not allowed by its namespace")

// Check refuses what is asked for and not allowed, as ErrNotAllowed.
func (c Spec) Check() error {
	if (c.Sandbox.HostPIDs || c.Sandbox.HostIPC) && !c.Security.Allowed.Privileged {
		return fmt.Errorf("processes or IPC of the machine: %w", ErrNotAllowed)
	}
	return c.Security.check()
}

func (s Security) check() error {
	if s.Privileged && !s.Allowed.Privileged {
		return fmt.Errorf("a privileged container: %w", ErrNotAllowed)
	}
	for _, name := range s.AddCapabilities {
		if !s.Allowed.Capability(name) {
			return fmt.Errorf("capability %s: %w", name, ErrNotAllowed)
		}
	}
	return nil
}
