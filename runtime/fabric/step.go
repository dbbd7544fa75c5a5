package fabric

import (
	"fmt"
	"net/netip"
	"strings"
)

// A verb is what a step does.
type verb int

const (
	rebuild verb = iota // the tunnel's link, as it cannot be changed
	resize              // the tunnel's link
	dismiss             // a link
	raise               // a link
	turn                // a switch
	addAddress
	dropAddress
	addForward
	dropForward
	addNeighbor
	dropNeighbor
	addRoute
	dropRoute
)

// A step is one change to the kernel. It is plain data, so that a thousand of them
// cost nothing until somebody asks what they say.
type step struct {
	verb    verb
	link    string
	tunnel  *tunnel
	was     string
	sysctl  sysctl
	address address
	mac     mac
	addr    netip.Addr
	route   route
	had     route // with the same key; empty: none
	foreign bool  // another's route has the key
}

// String says what is wrong, as an answer to "what differs?".
func (s step) String() string {
	switch s.verb {
	case rebuild:
		return "link " + s.link + " is " + s.was
	case resize:
		return fmt.Sprintf("link %s has another size or address than %d and %s", s.link, s.tunnel.mtu, s.tunnel.mac)
	case dismiss:
		return "link " + s.link + " is not needed"
	case raise:
		return "link " + s.link + " is down"
	case turn:
		return fmt.Sprintf("switch %s is %q and not %q", s.sysctl.path, s.was, s.sysctl.value)
	case addAddress:
		return fmt.Sprintf("address %s is missing on %s", s.address.addr, s.address.link)
	case dropAddress:
		return fmt.Sprintf("address %s on %s is not needed", s.address.addr, s.address.link)
	case addForward:
		return fmt.Sprintf("forwarding entry %s to %s is missing", s.mac, s.addr)
	case dropForward:
		return fmt.Sprintf("forwarding entry %s to %s is not needed", s.mac, s.addr)
	case addNeighbor:
		return fmt.Sprintf("neighbour %s at %s is missing", s.addr, s.mac)
	case dropNeighbor:
		return fmt.Sprintf("neighbour %s at %s is not needed", s.addr, s.mac)
	case dropRoute:
		return s.route.String() + " is not needed"
	}
	switch {
	case s.foreign:
		return s.route.String() + " cannot be made, as another's route has its place"
	case s.had.dst.IsValid():
		return s.route.String() + " is missing, there is " + s.had.String()
	}
	return s.route.String() + " is missing"
}

func (m mac) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// difference lists the steps from have to want. Their order leaves no gap: what a
// route needs comes before it, and what it needed goes after it.
func difference(want plan, have kernel) []step {
	steps := links(want, have)
	for a := range want.addresses {
		if !have.addresses[a] {
			steps = append(steps, step{verb: addAddress, address: a})
		}
	}
	for m, addr := range want.forwards {
		if have.forwards[m] != addr {
			steps = append(steps, step{verb: addForward, mac: m, addr: addr})
		}
	}
	for addr, m := range want.neighbors {
		if have.neighbors[addr] != m {
			steps = append(steps, step{verb: addNeighbor, addr: addr, mac: m})
		}
	}
	steps = append(steps, routes(want, have)...)
	for addr, m := range have.neighbors {
		if _, ok := want.neighbors[addr]; !ok {
			steps = append(steps, step{verb: dropNeighbor, addr: addr, mac: m})
		}
	}
	for m, addr := range have.forwards {
		if _, ok := want.forwards[m]; !ok {
			steps = append(steps, step{verb: dropForward, mac: m, addr: addr})
		}
	}
	for a := range have.addresses {
		if !want.addresses[a] && (a.link != VXLANLink || want.tunnel != nil) {
			steps = append(steps, step{verb: dropAddress, address: a})
		}
	}
	if want.tunnel == nil && have.tunnel != nil {
		steps = append(steps, step{verb: dismiss, link: VXLANLink})
	}
	return steps
}

// links lists the steps that make links and switches right. A link that is made
// anew takes everything on it along, so have is told.
func links(want plan, have kernel) []step {
	var steps []step
	fresh := false
	if t := want.tunnel; t != nil {
		switch was := have.tunnel; {
		case was == nil:
			fresh = true
			steps = append(steps, step{verb: rebuild, link: VXLANLink, tunnel: t, was: "missing"})
		case was.network != t.network || was.port != t.port || was.local != t.local:
			fresh = true
			steps = append(steps, step{verb: rebuild, link: VXLANLink, tunnel: t, was: "for another network"})
			have.forget(VXLANLink)
		case *was != *t:
			steps = append(steps, step{verb: resize, link: VXLANLink, tunnel: t})
		}
	}
	for _, s := range want.switches {
		value, known := have.switches[s.path]
		if fresh && strings.Contains(s.path, "/"+VXLANLink+"/") || known && value != s.value {
			steps = append(steps, step{verb: turn, sysctl: s, was: value})
		}
	}
	if have.down[loopback] {
		steps = append(steps, step{verb: raise, link: loopback})
	}
	if want.tunnel != nil && (fresh || have.down[VXLANLink]) {
		steps = append(steps, step{verb: raise, link: VXLANLink})
	}
	return steps
}

// forget drops from have what goes with a link.
func (have *kernel) forget(link string) {
	for a := range have.addresses {
		if a.link == link {
			delete(have.addresses, a)
		}
	}
	for k, r := range have.routes {
		if r.link == link {
			delete(have.routes, k)
		}
	}
	clear(have.neighbors)
	clear(have.forwards)
}

// routes lists the steps that make routes right: first the new and the changed
// ones, so that no packet finds a hole.
func routes(want plan, have kernel) []step {
	var steps []step
	for key, r := range want.routes {
		if had := have.routes[key]; had != r {
			steps = append(steps, step{verb: addRoute, route: r, had: had, foreign: have.foreign[key]})
		}
	}
	for _, r := range have.extra {
		steps = append(steps, step{verb: dropRoute, route: r})
	}
	for key, r := range have.routes {
		if _, ok := want.routes[key]; !ok {
			steps = append(steps, step{verb: dropRoute, route: r})
		}
	}
	return steps
}
