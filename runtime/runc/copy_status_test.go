package runc

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-dev/skein/runtime/runc/transfer"
)

func TestWhoseAProcessIs(t *testing.T) {
	const rest = "Gid:\t998\t998\t998\t998\nGroups:\t44 \n"
	const caps = "CapEff:\t00000000a80425fb\n"
	tests := map[string]struct {
		text string
		want transfer.Request
	}{
		"root":                        {"Uid:\t0\t0\t0\t0\n" + rest + caps + "CapAmb:\t0000000000000000\n", transfer.Request{GID: 998, Groups: []int{44}, Caps: 0x1b}},
		"a user before its program":   {"Uid:\t999\t999\t999\t999\n" + rest + caps + "CapAmb:\t0000000000000000\n", transfer.Request{UID: 999, GID: 998, Groups: []int{44}}},
		"a user with ambient powers":  {"Uid:\t999\t999\t999\t999\n" + rest + caps + "CapAmb:\t0000000000000001\n", transfer.Request{UID: 999, GID: 998, Groups: []int{44}, Caps: 1}},
		"a user on an ancient kernel": {"Uid:\t999\t999\t999\t999\n" + rest + caps, transfer.Request{UID: 999, GID: 998, Groups: []int{44}}},
	}
	for what, tt := range tests {
		var got transfer.Request
		if err := parseStatus([]byte(tt.text), &got); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}
