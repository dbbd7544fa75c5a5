package balance

import (
	"fmt"
	"net/netip"
	"testing"
)

// BenchmarkOneEndpoint swaps one endpoint of one Service, and then takes it away and
// brings it back, beside others.
func BenchmarkOneEndpoint(b *testing.B) {
	for _, services := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			ns := newBenchNS(b)
			table, err := OpenAt(ns)
			if err != nil {
				b.Fatal(err)
			}
			defer table.Close()
			fronts := map[Frontend]Service{}
			for i := range services {
				s := Service{}
				for j := range 5 {
					s.Endpoints = append(s.Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 64, byte(i >> 4), byte(i<<4 | j)}), 8080))
				}
				fronts[Frontend{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Protocol: TCP, Port: 80}] = s
			}
			cfg := Config{Pods: netip.MustParsePrefix("10.64.0.0/12"), Services: netip.MustParsePrefix("10.96.0.0/16"), Frontends: fronts}
			if err := table.Set(b.Context(), cfg); err != nil {
				b.Fatal(err)
			}
			f := Frontend{Addr: netip.AddrFrom4([4]byte{10, 96, 0, 3}), Protocol: TCP, Port: 80}
			five := fronts[f]
			four := Service{Endpoints: five.Endpoints[:4]}
			n := 0
			for b.Loop() {
				s := five
				if n++; n%2 == 1 {
					s = four
				}
				if err := table.Apply(b.Context(), Change{Put: map[Frontend]Service{f: s}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
