package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/runtime/image"
)

const machineConf = "# ours\nnameserver 192.0.2.1\nsearch old.example\nsearch lan.example corp.example\noptions timeout:1 rotate\nsortlist 10.0.0.0\n"

func TestHowNamesAreLookedUp(t *testing.T) {
	two := "2"
	all := &corev1.PodDNSConfig{
		Nameservers: []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}, Searches: []string{"my.example", "lan.example"},
		Options: []corev1.PodDNSConfigOption{{Name: "timeout", Value: &two}, {Name: "edns0"}},
	}
	tests := map[string]struct {
		policy corev1.DNSPolicy
		own    bool
		config *corev1.PodDNSConfig
		want   string
	}{
		"as the image has it":      {want: ""},
		"the cluster's, and more":  {policy: corev1.DNSClusterFirst, config: &corev1.PodDNSConfig{Searches: []string{"my.example"}}, want: "search my.example\n"},
		"as the machine":           {policy: corev1.DNSDefault, want: "nameserver 192.0.2.1\nsearch lan.example corp.example\noptions timeout:1 rotate\n"},
		"in the machine's network": {own: true, want: "nameserver 127.0.0.53\n"},
		"only its own":             {policy: corev1.DNSNone, own: true, config: &corev1.PodDNSConfig{Nameservers: []string{"2001:db8::1"}}, want: "nameserver 2001:db8::1\n"},
		"both": {
			policy: corev1.DNSDefault, config: all,
			want: "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nsearch lan.example corp.example my.example\noptions rotate timeout:2 edns0\n",
		},
	}
	machine := func(own bool) string {
		if own {
			return "nameserver 127.0.0.53\n"
		}
		return machineConf
	}
	for what, tt := range tests {
		c := corev1.Container{Name: "c", Command: []string{"/x"}}
		pod := podWith(c)
		pod.Spec.DNSPolicy, pod.Spec.HostNetwork, pod.Spec.DNSConfig = tt.policy, tt.own, tt.config
		spec, err := containerSpec(pod, &c, image.Config{}, place{resolv: machine})
		if err != nil || spec.Sandbox.Resolv != tt.want {
			t.Errorf("%s: %v, %q, want %q", what, err, spec.Sandbox.Resolv, tt.want)
		}
	}
}

func TestOnlyLoopback(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                     false,
		"nameserver 127.0.0.53":                true,
		"nameserver ::1":                       true,
		machineConf:                            false,
		"nameserver 127.0.0.1\n" + machineConf: false,
		"nameserver x":                         false,
	} {
		if got := OnlyLoopback(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
