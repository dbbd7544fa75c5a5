package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// The exit codes that scripts may rely on.
const (
	exitFailed       = 1
	exitUsage        = 2
	exitNotConverged = 3
	exitForbidden    = 6
	exitNoLeader     = 7
	exitCancelled    = 130
)

// A failure is what a person is told when a command could not do its work.
type failure struct {
	message string
	hint    string // what to run next, or ""
	code    int
}

func (f *failure) Error() string { return f.message }

func failed(hint, format string, args ...any) *failure {
	return &failure{message: fmt.Sprintf(format, args...), hint: hint, code: exitFailed}
}

func usageError(hint, format string, args ...any) *failure {
	return &failure{message: fmt.Sprintf(format, args...), hint: hint, code: exitUsage}
}

// missing refuses a command line that lacks arguments and shows what it takes.
func missing(c *cli.Context, what string) *failure {
	return usageError("usage: "+usageLine(c.Command), "%s needs %s", c.Command.HelpName, what)
}

// tooMany refuses arguments that a verb has no use for.
func tooMany(c *cli.Context, extra string) *failure {
	return usageError("usage: "+usageLine(c.Command), "%s has no use for %q", c.Command.HelpName, extra)
}

// unreadable says of a file that was named why it cannot be read.
func unreadable(err error) *failure {
	var at *fs.PathError
	if errors.As(err, &at) {
		return usageError("", "%s: %s", at.Path, at.Err)
	}
	return usageError("", "%s", err)
}

func usageLine(c *cli.Command) string {
	return strings.TrimSpace(c.HelpName + " " + c.ArgsUsage)
}

// exitStatus ends skein with the code of a program that ran elsewhere, or of an
// outcome that was told already.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func onUsageError(c *cli.Context, err error, _ bool) error {
	message := strings.NewReplacer(": parse error", ": want a whole number", "for flag -", "for --", "flag provided but not defined: -", "there is no flag --").Replace(err.Error())
	return usageError("usage: "+usageLine(c.Command), "%s", message)
}

// report tells the person what went wrong and returns the exit code. Of several
// failures each is told, and the first one that is not a mere delay decides.
func (s *session) report(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	code := 0
	for _, one := range flatten(err) {
		var status exitStatus
		if errors.As(one, &status) {
			code = worse(code, int(status))
			continue
		}
		f := explain(one)
		if ctx.Err() != nil && f.code == exitFailed {
			f = &failure{code: exitCancelled}
		}
		code = worse(code, f.code)
		if f.message != "" {
			fmt.Fprintf(s.stderr, "skein: %s\n", clean(f.message))
		}
		if f.hint != "" {
			fmt.Fprintf(s.stderr, "hint: %s\n", clean(f.hint))
		}
	}
	return code
}

func worse(a, b int) int {
	if a == 0 || a == exitNotConverged && b != 0 {
		return b
	}
	return a
}

// failures are several that are told one by one.
type failures []error

func (f failures) Error() string { return errors.Join(f...).Error() }

// joinFailures drops those that are nil, and is nil when none is left.
func joinFailures(errs []error) error {
	errs = slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	default:
		return failures(errs)
	}
}

func flatten(err error) []error {
	var many failures
	if errors.As(err, &many) {
		return many
	}
	return []error{err}
}

// explain finds what to tell a person about any error.
func explain(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	if errors.Is(err, context.Canceled) {
		return &failure{code: exitCancelled}
	}
	var remote *connect.Error
	if !errors.As(err, &remote) {
		return &failure{message: err.Error(), code: exitFailed}
	}
	f = &failure{message: remote.Message(), code: codeOf(remote.Code())}
	if f.message == "" {
		f.message = remote.Code().String()
	}
	for _, detail := range remote.Details() {
		message, err := connectproto.UnmarshalErrorDetail(detail)
		if info, ok := message.(*skeinv1.ErrorInfo); err == nil && ok {
			f.hint = info.GetHint()
			if info.GetExitCode() != 0 {
				f.code = int(info.GetExitCode())
			}
		}
	}
	if f.hint == "" {
		f.hint = fallbackHint(remote.Code())
	}
	return f
}

// codeOf is the exit code of an answer that names none.
func codeOf(code connect.Code) int {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return exitUsage
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return exitForbidden
	case connect.CodeUnavailable:
		return exitNoLeader
	case connect.CodeDeadlineExceeded:
		return exitNotConverged
	case connect.CodeCanceled:
		return exitCancelled
	default:
		return exitFailed
	}
}

func fallbackHint(code connect.Code) string {
	switch code {
	case connect.CodeUnauthenticated:
		return "ask an admin for \"skein token create --role edit\", then \"skein ctx add\" what it prints"
	case connect.CodeUnimplemented:
		return "the cluster may run another version: skein version"
	case connect.CodeUnavailable:
		return "skein status"
	default:
		return ""
	}
}

// clean drops what could move the cursor or recolour the terminal: names and
// messages come from objects that others wrote.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, text)
}
