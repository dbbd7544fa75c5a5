// Package balance owns what becomes of packets on this machine: which endpoint a
// connection to a Service goes to, which Pods may speak to which, and whose address
// a packet leaves with. All of it is one nftables table, "ip skein", written by
// netlink: a fixed set of chains, and sets and maps whose elements change. So a
// change costs the same whatever else there is. Who is behind a Service, and what a
// policy means, is for others to say.
package balance

import (
	"net/netip"
)

// A Protocol is one of IP's, by its number there.
type Protocol uint8

// The protocols that have ports here.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

func (p Protocol) String() string {
	if p == UDP {
		return "udp"
	}
	return "tcp"
}

// A Frontend is a port that connections come to.
type Frontend struct {
	Addr     netip.Addr // of a Service, or one of this machine's; zero: any of this machine's but its loopback
	Protocol Protocol
	Port     uint16
}

// A Service is what is behind a Frontend.
type Service struct {
	// Endpoints take new connections, by chance each alike. There are at most
	// MaxEndpoints. None: connections are refused at once.
	Endpoints []netip.AddrPort
	// Affinity says that a client goes to the same endpoint, by its address, as long
	// as that is there; when others come or go, few clients are moved.
	Affinity bool
	// Keep says that the endpoints see the address of a client from outside: they are
	// all on this machine. Connections that come to a Service's own address, or from
	// Pods, keep it anyway.
	Keep bool
	// Silent says that without Endpoints connections are dropped, not refused.
	Silent bool
}

// MaxEndpoints is how many one Service may have here.
const MaxEndpoints = 4096

// A Pod is one of this machine's with an address of its own.
type Pod struct {
	Addr netip.Addr
	Link string // this machine's end of its link
}

// A Config is all that a Table is to be. Addresses are IPv4.
type Config struct {
	Pods     netip.Prefix // those of the cluster
	Services netip.Prefix
	Resolver netip.Addr   // on this machine, for its Pods: no policy is in the way
	Nodes    []netip.Addr // machines of the cluster: Pods reach them with their own address
	// Tunnel is the UDP port at which packets of Pods come from other machines; from
	// strangers they are dropped. 0: there is none.
	Tunnel    uint16
	Frontends map[Frontend]Service
	Here      []Pod
	Policy    Policy
}

// A Policy says which packets of this machine's Pods are let through. Pods that are
// not in it speak to whom they will.
type Policy struct {
	Ingress map[netip.Addr]Class // by Pod: what comes in
	Egress  map[netip.Addr]Class // what goes out
}

// A Class is what is let through; all else is dropped. Answers to what was let
// through are, too. Pods with the same Class share a name for it.
type Class struct {
	Name  string
	Rules []Rule
}

// A Rule lets packets through that come from, or go to, some peers at some ports.
type Rule struct {
	Peers []netip.Addr
	Nets  []netip.Prefix
	Ports []PortRange // none: all ports, of all protocols
}

// A PortRange is the ports of a protocol from First to Last.
type PortRange struct {
	Protocol    Protocol
	First, Last uint16
}

// A Change is what becomes different. What it does not name stays.
type Change struct {
	Put    map[Frontend]Service
	Delete []Frontend
	// Nodes, Here and Policy take the place of those of the Config.
	Nodes  *[]netip.Addr
	Here   *[]Pod
	Policy *Policy
}
