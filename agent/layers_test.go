package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func TestLayersStopFromTheTop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		layer := func(name string) func(context.Context) error {
			return func(ctx context.Context) error {
				<-ctx.Done()
				order = append(order, name)
				return nil
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- runLayers(ctx, layer("raft"), layer("gossip"), layer("api")) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"api", "gossip", "raft"}, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
	})
}

func TestOneFailureBringsAllLayersDown(t *testing.T) {
	broken := errors.New("broken")
	for at := range 3 {
		synctest.Test(t, func(t *testing.T) {
			var layers []func(context.Context) error
			for i := range 3 {
				layers = append(layers, func(ctx context.Context) error {
					if i == at {
						return broken
					}
					<-ctx.Done()
					return nil
				})
			}
			if err := runLayers(t.Context(), layers...); !errors.Is(err, broken) {
				t.Errorf("layer %d failed, and runLayers answers %v", at, err)
			}
		})
	}
}
