package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect/v2"
)

func TestReportTellsOnceAndExitsByTheContract(t *testing.T) {
	remote := func(code connect.Code) error {
		return fmt.Errorf("call: %w", connect.NewError(code, "no").WithRemote())
	}
	late, broken := &failure{message: "late", code: exitNotConverged}, &failure{message: "broken", code: exitFailed}
	tests := map[string]struct {
		err  error
		code int
		text string
	}{
		"nothing":               {nil, 0, ""},
		"ours":                  {usageError("do that", "not %s", "this"), 2, "skein: not this\nhint: do that\n"},
		"any other":             {errors.New("disk full"), 1, "skein: disk full\n"},
		"a program's exit code": {exitStatus(42), 42, ""},
		"cancelled":             {fmt.Errorf("watch: %w", context.Canceled), 130, ""},
		"invalid":               {remote(connect.CodeInvalidArgument), 2, "skein: no\n"},
		"who are you":           {remote(connect.CodeUnauthenticated), 6, "skein: no\nhint: ask an admin for \"skein token create --role edit\", then \"skein ctx add\" what it prints\n"},
		"not allowed":           {remote(connect.CodePermissionDenied), 6, "skein: no\n"},
		"no leader":             {remote(connect.CodeUnavailable), 7, "skein: no\nhint: skein status\n"},
		"not found":             {remote(connect.CodeNotFound), 1, "skein: no\n"},
		"two":                   {joinFailures([]error{nil, late, broken}), 1, "skein: late\nskein: broken\n"},
		"two, the other way":    {joinFailures([]error{broken, late}), 1, "skein: broken\nskein: late\n"},
		"two that are late":     {joinFailures([]error{late, late}), 3, "skein: late\nskein: late\n"},
		"escapes in a message":  {failed("", "pod \x1b[31mred"), 1, "skein: pod [31mred\n"},
		"a refused connection":  {unreachable("https://h:1", fmt.Errorf("dial: %w", syscall.ECONNREFUSED)), 1, "skein: cannot reach https://h:1: connection refused\nhint: no agent listens there: try another node with --server, or see \"skein ctx show\"\n"},
		"a socket not for us":   {unreachable("unix:///s", fmt.Errorf("dial: %w", syscall.EACCES)), 6, "skein: cannot reach unix:///s: permission denied\nhint: the socket is for root: use sudo, or a token with \"skein ctx add\"\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			s := &session{stderr: &b}
			if code := s.report(t.Context(), tt.err); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if b.String() != tt.text {
				t.Errorf("said %q, want %q", b.String(), tt.text)
			}
		})
	}
}

func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	for want, errs := range map[bool][]error{
		true: {
			unreachable("https://h:1", syscall.ECONNREFUSED),
			fmt.Errorf("await: %w", unreachable("https://h:1", syscall.ECONNRESET)),
			connect.NewError(connect.CodeUnavailable, "no leader").WithRemote(),
		},
		false: {
			errors.New("disk full"), context.Canceled, exitStatus(1),
			connect.NewError(connect.CodePermissionDenied, "no").WithRemote(),
			connect.NewError(connect.CodeAborted, "conflict").WithRemote(),
		},
	} {
		for _, err := range errs {
			if got := passing(err); got != want {
				t.Errorf("passing(%v) = %t, want %t", err, got, want)
			}
		}
	}
}
