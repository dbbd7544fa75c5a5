package api

import (
	"strings"
	"testing"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func TestTheDoctorSaysWhatDiffers(t *testing.T) {
	well := func() *skeinv1.InspectResponse { return &skeinv1.InspectResponse{Index: 9, Names: "a", Services: 2} }
	tests := map[string]struct {
		spoil func(map[string]*skeinv1.InspectResponse)
		want  string // node: text; empty: nothing
	}{
		"all is well":           {func(map[string]*skeinv1.InspectResponse) {}, ""},
		"one has other names":   {func(s map[string]*skeinv1.InspectResponse) { s["n2"].Names, s["n2"].Index = "b", 5 }, "n2: it knows other Services or endpoints than most (2 Services, up to index 5 of 9)"},
		"a kernel is different": {func(s map[string]*skeinv1.InspectResponse) { s["n3"].Wrong = []string{"route 10.64.1.0/24 is missing"} }, "n3: route 10.64.1.0/24 is missing"},
		"one is not reached": {func(s map[string]*skeinv1.InspectResponse) {
			s["n1"].Paths, s["n1"].Unreached = map[string]string{"n2": "vxlan"}, map[string]string{"n2": "no answer"}
		}, "n1: it does not reach the Pod 10.64.1.1 on n2 (vxlan): no answer"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			said := map[string]*skeinv1.InspectResponse{"n1": well(), "n2": well(), "n3": well()}
			tt.spoil(said)
			out := &skeinv1.DoctorResponse{}
			judge(said, map[string]string{"n2": "10.64.1.1"}, out)
			var got []string
			for _, f := range out.GetFindings() {
				got = append(got, f.GetNode()+": "+f.GetText())
				if f.GetHint() == "" {
					t.Errorf("%q is told without a way out", f.GetText())
				}
			}
			if strings.Join(got, "\n") != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAnInspectionTriesPodsAlone(t *testing.T) {
	w := newWorld(t)
	for _, addr := range []string{"192.0.2.1", "169.254.169.254", "no address", "10.96.0.1"} {
		if _, err := w.server.inspect(t.Context(), &skeinv1.InspectRequest{Pods: map[string]string{"n2": addr}}); err == nil || !strings.Contains(err.Error(), "is no address of a Pod") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
