package lab

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsPublishedOfServices(t *testing.T) {
	got, err := parseOutlets([]byte(`{"items":[
		{"metadata":{"name":"web","namespace":"default","annotations":{"skein.dev/publish":"8080"}},
		 "spec":{"type":"NodePort","clusterIP":"10.96.0.7","ports":[{"port":80,"nodePort":30080,"protocol":"TCP"},{"name":"u","port":53,"nodePort":30053,"protocol":"UDP"}]}},
		{"metadata":{"name":"late","namespace":"shop","annotations":{"skein.dev/publish":"8080,9000:api"}},
		 "spec":{"type":"ClusterIP","clusterIP":"10.96.0.8","ports":[{"name":"x","port":1,"protocol":"TCP"},{"name":"api","port":90,"protocol":"TCP"}]}},
		{"metadata":{"name":"plain","namespace":"shop"},"spec":{"type":"ClusterIP","clusterIP":"10.96.0.9","ports":[{"port":80,"protocol":"TCP"}]}}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[int32]outlet{
		30080: {Port: 30080, Service: "default/web", node: 30080},
		8080:  {Port: 8080, Service: "default/web", addr: "10.96.0.7:80"},
		9000:  {Port: 9000, Service: "shop/late", addr: "10.96.0.8:90"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outlet{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
