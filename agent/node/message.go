package node

import (
	"cmp"
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/runtime/container"
)

// Bounds of what a status says of how containers ended, as Kubernetes has them.
const (
	maxWords     = 12 << 10 // bytes, of all containers of a Pod together
	maxLogWords  = 2048     // bytes of output, in place of a message
	maxLogLines  = 80
	wordPatience = time.Second // for the end of the output to be written down
	unknownCode  = 255         // the exit code of which nobody knows another
)

// lastWords gives what containers left to be told when they ended: the message in
// their file, or else the end of their output, where they ask for that and it
// went wrong.
func (w *worker) lastWords(ctx context.Context, pod *corev1.Pod, have []container.Status) map[container.ID]string {
	members := membersOf(pod)
	most := min(container.MaxMessage, maxWords/len(members))
	out := map[container.ID]string{}
	for _, m := range members {
		attempts := attemptsOf(m.Name, have)
		for _, s := range attempts[:min(2, len(attempts))] {
			if s.State != container.Exited {
				continue
			}
			text, known := w.words[s.ID]
			if !known {
				text = container.Clip([]byte(s.Message), most)
				if text == "" && s.ExitCode != 0 && m.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
					text = container.Clip(w.lastLines(ctx, s.ID), min(most, maxLogWords))
				}
			}
			if ctx.Err() == nil {
				out[s.ID] = text
			}
		}
	}
	w.words = out // those that are gone are forgotten
	return out
}

// lastLines reads the end of an exited container's output.
func (w *worker) lastLines(ctx context.Context, id container.ID) []byte {
	ctx, cancel := context.WithTimeout(ctx, wordPatience)
	defer cancel()
	var out []byte
	err := w.node.cfg.Driver.Logs(ctx, id, container.LogOptions{Tail: maxLogLines, Follow: true}, func(l container.LogLine) error {
		if out = append(out, l.Text...); !l.Partial {
			out = append(out, '\n')
		}
		out = out[max(0, len(out)-maxLogWords):]
		return nil
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, container.ErrNotFound) {
		w.log.Warn("the last output of a container cannot be read", "container", id.String(), "err", err)
	}
	return out
}

// terminated says how a container ended: in its own words, else in ours.
func (v view) terminated(s container.Status) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode:    int32(s.ExitCode), //nolint:gosec // -1 … 255
		Signal:      int32(s.Signal),   //nolint:gosec // 0 … 64
		Reason:      "Completed",
		StartedAt:   metav1.Time{Time: s.StartedAt.Truncate(time.Second)},
		FinishedAt:  metav1.Time{Time: s.FinishedAt.Truncate(time.Second)},
		ContainerID: "runc://" + s.ID.String(),
	}
	ours := ""
	switch {
	case s.LeaseLost:
		t.Reason = reasonLeaseLost
		ours = "killed because its lease was not renewed: the Pod may run elsewhere"
	case s.OOMKilled:
		t.Reason = "OOMKilled"
		ours = "killed for using more memory than its limit"
	case s.ExitCode == -1:
		t.Reason = "Unknown"
		ours = "it ended while nobody could see with what code"
		t.ExitCode = unknownCode
	case s.ExitCode != 0:
		t.Reason = "Error"
	}
	t.Message = cmp.Or(v.words[s.ID], ours)
	return t
}
