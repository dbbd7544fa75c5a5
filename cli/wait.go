package cli

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

const (
	defaultWait = "2m"
	unbounded   = 7 * 24 * time.Hour // what "--timeout 0" asks of the server
	// lateBy is how much longer than promised we wait for the server's own
	// verdict on a deadline before we give ours.
	lateBy     = 5 * time.Second
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
)

func waitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "no-wait", Usage: "return once the change is accepted"},
		&cli.StringFlag{Name: "timeout", Value: defaultWait, Usage: "give up waiting after `DURATION`; 0: never"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress, only the outcome"},
	}
}

// waiting is how a command waits for what it changed.
type waiting struct {
	session  *session
	cluster  *cluster
	progress *progress
	timeout  time.Duration
	off      bool
}

func (s *session) newWaiting(c *cli.Context, cluster *cluster) (*waiting, error) {
	timeout, err := parseDuration("--timeout", c.String("timeout"))
	if err != nil {
		return nil, err
	}
	if timeout == 0 {
		timeout = unbounded
	}
	w := io.Discard
	if !c.Bool("quiet") {
		w = s.stderr
	}
	return &waiting{
		session: s, cluster: cluster, timeout: timeout, off: c.Bool("no-wait"),
		progress: newProgress(w, s.errTTY && !c.Bool("quiet"), s.columns),
	}, nil
}

// columns is how wide the terminal is, or 80.
func (s *session) columns() int {
	for _, file := range []int{int(s.outFile.Fd()), int(s.stdin.Fd())} {
		if columns, _, err := term.GetSize(file); err == nil && columns > 0 {
			return columns
		}
	}
	return 80
}

// all waits for every object that has something to wait for, all at once. Their
// failures are told together.
func (w *waiting) all(ctx context.Context, objects []*skeinv1.Applied, gone bool) error {
	if w.off {
		return nil
	}
	errs := make([]error, len(objects))
	var group errgroup.Group
	deadline := w.session.now().Add(w.timeout)
	for i, object := range objects {
		if !object.GetAwaitable() {
			continue
		}
		group.Go(func() error {
			errs[i] = w.follow(ctx, shown(object.GetObject()), deadline, func(ctx context.Context, left time.Duration) (awaitStream, error) {
				return w.cluster.Await(ctx, &skeinv1.AwaitRequest{
					Object: object.GetObject(), Generation: object.GetGeneration(), Gone: gone, TimeoutMs: left.Milliseconds(),
				})
			})
			return nil
		})
	}
	_ = group.Wait()
	return joinFailures(errs)
}

// awaitStream is what Await and Drain answer with.
type awaitStream interface {
	Receive() (*skeinv1.AwaitResponse, error)
	Close() error
}

// follow shows one stream of progress until its outcome. The change is made
// already: a leader that goes away in between only means to ask again.
func (w *waiting) follow(ctx context.Context, subject string, deadline time.Time, open func(context.Context, time.Duration) (awaitStream, error)) error {
	last := ""
	defer func() { w.progress.done(subject, last) }()
	ctx, cancel := context.WithDeadlineCause(ctx, deadline.Add(lateBy), errLate)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		stream, err := open(ctx, max(time.Millisecond, deadline.Sub(w.session.now())))
		if err == nil {
			var outcome *skeinv1.AwaitResponse
			if outcome, err = w.show(subject, stream); outcome != nil {
				last = outcome.GetSummary()
				return verdict(subject, outcome)
			}
			if err == nil {
				err = &unreachableError{failure: failure{message: "the answer ended early"}}
			}
		}
		if errors.Is(context.Cause(ctx), errLate) {
			return &failure{message: subject + ": accepted, but there was no word of it by the deadline", hint: "skein status", code: exitNotConverged}
		}
		if ctx.Err() != nil {
			return &failure{message: "no longer waiting for " + subject + "; the change itself goes on", hint: "skein describe " + subject, code: exitCancelled}
		}
		if !passing(err) {
			return err
		}
		w.progress.tell(subject, "waiting for a leader: "+explain(err).message, "waiting for a leader")
		if !sleep(ctx, pause) {
			continue // and say why above
		}
	}
}

var errLate = errors.New("deadline is over")

// show tells each message and returns the one that holds the outcome.
func (w *waiting) show(subject string, stream awaitStream) (*skeinv1.AwaitResponse, error) {
	defer func() { _ = stream.Close() }() // what matters was said by Receive
	for {
		message, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if pulls := message.GetPulls(); len(pulls) > 0 || message.GetLine() == "" && message.GetSummary() == "" && !message.GetDone() {
			w.progress.pulling(subject, pulls)
			continue
		}
		if message.GetDone() {
			w.progress.tell(subject, message.GetLine(), "")
			return message, nil
		}
		w.progress.tell(subject, message.GetLine(), message.GetSummary())
	}
}

func verdict(subject string, outcome *skeinv1.AwaitResponse) error {
	if outcome.GetExitCode() == 0 {
		return nil
	}
	message := outcome.GetError()
	if message == "" {
		message = subject + " did not become as wanted"
	} else if !strings.Contains(message, subject) {
		message = subject + ": " + message
	}
	return &failure{message: message, hint: outcome.GetHint(), code: int(outcome.GetExitCode())}
}

// passing says whether an error may be over in a moment: nobody answered, or
// there was no leader. Not asked once our own context has ended.
func passing(err error) bool {
	var gone *unreachableError
	if errors.As(err, &gone) {
		return true
	}
	var answer *connect.Error
	if !errors.As(err, &answer) {
		return false
	}
	// Cancelled, and not by us: it led the cluster, and does no longer.
	return answer.Code() == connect.CodeUnavailable || answer.Code() == connect.CodeCanceled
}

// sleep reports whether it slept the whole time.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// parseDuration reads 90s, 5m, 2h30m, and days: 30d.
func parseDuration(flag, text string) (time.Duration, error) {
	if text == "" || text == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if d, err = time.ParseDuration(days + "h"); err == nil {
			d *= 24
		}
	}
	if err != nil || d < 0 {
		return 0, usageError("", "%s %q is no duration: want 30s, 5m, 2h or 7d", flag, text)
	}
	return d, nil
}
