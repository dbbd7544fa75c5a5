package object

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A Ulimit is a limit of the kernel's on each process of a container.
type Ulimit struct {
	Name       string // as docker names it: "nofile"
	Soft, Hard uint64 // in the kernel's own unit; Unlimited: none
}

// Unlimited is no limit.
const Unlimited uint64 = math.MaxUint64

// ulimits are docker's names.
var ulimits = strings.Fields(`core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack`)

// UlimitNames lists the limits that a Pod may set.
func UlimitNames() []string { return slices.Clone(ulimits) }

// Ulimits reads the limits that a Pod's annotations set, by name. The error says
// which annotation it is of.
func Ulimits(annotations map[string]string) ([]Ulimit, error) {
	var out []Ulimit
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		name, ok := strings.CutPrefix(key, AnnotationUlimit)
		if !ok {
			continue
		}
		u, err := parseUlimit(name, annotations[key])
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", key, err)
		}
		out = append(out, u)
	}
	return out, nil
}

// parseUlimit reads "soft:hard", or one number for both. -1 and "unlimited" are
// none at all.
func parseUlimit(name, value string) (Ulimit, error) {
	u := Ulimit{Name: name}
	if !slices.Contains(ulimits, name) {
		return u, fmt.Errorf("%q is no limit; there are %s", clip(name), strings.Join(ulimits, ", "))
	}
	soft, hard, two := strings.Cut(value, ":")
	if !two {
		hard = soft
	}
	var err error
	if u.Soft, err = parseLimit(soft); err != nil {
		return u, err
	}
	if u.Hard, err = parseLimit(hard); err != nil {
		return u, err
	}
	switch {
	case u.Soft > u.Hard:
		return u, fmt.Errorf("%q: the soft limit is above the hard one", clip(value))
	case u.Hard == Unlimited && name == "nofile":
		return u, fmt.Errorf("%q: no kernel opens files without limit; write a number, like 65536:1048576", clip(value))
	}
	return u, nil
}

func parseLimit(text string) (uint64, error) {
	if text == "-1" || text == "unlimited" {
		return Unlimited, nil
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || text != strconv.FormatUint(n, 10) {
		return 0, fmt.Errorf("%q is no limit: want SOFT:HARD, like 1024:4096; -1 is none", clip(text))
	}
	return n, nil
}

func (p *problems) ulimit(key, value, path string) {
	if _, err := parseUlimit(strings.TrimPrefix(key, AnnotationUlimit), value); err != nil {
		p.add(path, "%v", err)
	}
}

// sameUlimits tells whether two sets of annotations set the same limits.
func sameUlimits(a, b map[string]string) bool {
	pick := func(set map[string]string) map[string]string {
		out := map[string]string{}
		for k, v := range set {
			if strings.HasPrefix(k, AnnotationUlimit) {
				out[k] = v
			}
		}
		return out
	}
	return maps.Equal(pick(a), pick(b))
}
