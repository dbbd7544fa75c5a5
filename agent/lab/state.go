package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const stateFile = "lab.json"

// state is what a lab is meant to be, as far as the kernel cannot tell.
type state struct {
	Name  string     `json:"name"`
	Port  int        `json:"port"`           // of the API, on the machine's loopback
	Disk  int64      `json:"disk,omitempty"` // bytes of each node's own; 0: they have none
	Nodes []*node    `json:"nodes"`
	Cuts  [][]string `json:"cuts,omitempty"` // groups that cannot reach each other

	// What `down` undoes in the person's contexts.
	ConfigPath string `json:"configPath,omitempty"`
	Context    string `json:"context,omitempty"`
	Previous   string `json:"previous,omitempty"` // selected before
}

// node is one machine of the lab.
type node struct {
	Name   string        `json:"name"`             // n1, n2 …
	Joined bool          `json:"joined,omitempty"` // has been a part of the cluster
	Killed bool          `json:"killed,omitempty"` // without power
	Moved  bool          `json:"moved,omitempty"`  // has its other address
	Loss   float64       `json:"loss,omitempty"`   // of packets, 0…1, each way
	Delay  time.Duration `json:"delay,omitempty"`  // each way
}

func newNode(number int) *node { return &node{Name: "n" + strconv.Itoa(number)} }

func (n *node) number() int {
	i, err := strconv.Atoi(strings.TrimPrefix(n.Name, "n"))
	if err != nil || i < 1 || i > maxNodes {
		panic(fmt.Sprintf("a lab's node is named %q", n.Name)) // load checks it
	}
	return i
}

func (l *Lab) load() error {
	text, err := os.ReadFile(filepath.Join(l.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return l.missing()
	}
	if err != nil {
		return fmt.Errorf("read lab %s: %w", l.Name, err)
	}
	read := state{}
	if err := json.Unmarshal(text, &read); err != nil {
		return fault("take it down with \"skeind lab down"+l.flag()+"\"", "read lab %s: %v", l.Name, err)
	}
	if read.Name != l.Name || !numbered(read.Nodes) {
		return fault("take it down with \"skeind lab down"+l.flag()+"\"", "what is kept of lab %s makes no sense", l.Name)
	}
	l.state = read
	return nil
}

func numbered(nodes []*node) bool {
	for i, n := range nodes {
		if n == nil || i >= maxNodes || n.Name != newNode(i+1).Name {
			return false
		}
	}
	return true
}

// save replaces the file whole: others read it without the lock.
func (l *Lab) save() error {
	text, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return fmt.Errorf("marshal lab %s: %w", l.Name, err)
	}
	return writeAside(filepath.Join(l.dir, stateFile), append(text, '\n'))
}

// writeAside replaces a file, readable by root alone.
func writeAside(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error is the one to tell
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
