package balance

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
)

// stickySlots is how many slots a Service with affinity has. A client's is always
// the same one.
const stickySlots = 256

// slotsOf says which endpoint is in each slot, so that as few slots as possible are
// others than before.
func slotsOf(s Service, before []netip.AddrPort) []netip.AddrPort {
	want := slices.Clone(s.Endpoints)
	slices.SortFunc(want, netip.AddrPort.Compare)
	want = slices.Compact(want)
	if s.Affinity && len(want) > 0 {
		return sticky(want)
	}
	out := make([]netip.AddrPort, 0, len(want))
	left := make(map[netip.AddrPort]bool, len(want))
	for _, e := range want {
		left[e] = true
	}
	for _, e := range before[:min(len(before), len(want))] {
		if left[e] {
			delete(left, e)
			out = append(out, e)
		} else {
			out = append(out, netip.AddrPort{}) // a hole
		}
	}
	var rest []netip.AddrPort
	for _, e := range want {
		if left[e] {
			rest = append(rest, e)
		}
	}
	for i := range out {
		if !out[i].IsValid() {
			out[i], rest = rest[0], rest[1:]
		}
	}
	return append(out, rest...)
}

// sticky gives each slot the endpoint that weighs most for it: highest random
// weight hashing (Thaler and Ravishankar, 1998). Every machine finds the same, and
// when an endpoint goes only its own slots change hands.
func sticky(endpoints []netip.AddrPort) []netip.AddrPort {
	out := make([]netip.AddrPort, stickySlots)
	for slot := range out {
		var best uint64
		for _, e := range endpoints {
			h := fnv.New64a()
			b, _ := e.MarshalBinary()
			_, _ = h.Write(binary.BigEndian.AppendUint32(b, uint32(slot))) //nolint:gosec // small
			if w := mix(h.Sum64()); w > best || !out[slot].IsValid() {
				best, out[slot] = w, e
			}
		}
	}
	return out
}

// mix spreads what differs in few bits over all (the finaliser of MurmurHash3, by
// Austin Appleby, who gave it to the public).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
