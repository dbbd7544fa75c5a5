package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Exit codes of the command line, as its contract has them.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitPending   = 3
	exitUnsafe    = 5
	exitDenied    = 6
	exitNoLeader  = 7
	exitCancelled = 130
)

// NotFound says, in the words of Err, that this machine has no such container.
type NotFound struct{ Err error }

func (e NotFound) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e NotFound) Unwrap() error { return e.Err }

// A refusal is an error made for the person who asked.
type refusal struct {
	code connect.Code
	exit int32
	hint string
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code connect.Code, exit int32, hint, format string, args ...any) error {
	return &refusal{code: code, exit: exit, hint: hint, text: fmt.Sprintf(format, args...)}
}

// hintNoLeader is what to run when there is no leader.
const hintNoLeader = "see which machines are missing with \"skein status\""

func badRequest(format string, args ...any) error {
	return refuse(connect.CodeInvalidArgument, exitUsage, "", format, args...)
}

func notFound(ref *skeinv1.ObjectRef) error {
	hint := "see what there is with \"skein get " + ref.GetKind() + inOther(ref.GetNamespace()) + "\""
	return refuse(connect.CodeNotFound, exitFailed, hint, "%s %q not found%s", ref.GetKind(), ref.GetName(), inNamespace(ref.GetNamespace()))
}

// inOther is the flag that names a namespace, of the default one nothing.
func inOther(ns string) string {
	if ns == "" || ns == defaultNamespace {
		return ""
	}
	return " -n " + ns
}

func inNamespace(ns string) string {
	if ns == "" {
		return ""
	}
	return " in namespace " + ns
}

// translated turns every error of a handler into one that a client can read.
// What is not known here becomes "internal", with the cause in the log alone.
func (s *Server) translated(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		err := next(ctx, spec, stream)
		if err == nil {
			return nil
		}
		var already *connect.Error
		if errors.As(err, &already) {
			return ours(already)
		}
		code, text, info := s.explain(ctx, err)
		if code == connect.CodeInternal {
			s.log.Error("call failed", "call", spec.Procedure, "err", err)
		}
		out := connect.NewError(code, text)
		if detail, derr := connectproto.NewErrorDetail(info); derr == nil {
			out = out.WithDetail(detail)
		}
		return out
	}
}

// ours is an error of another agent as our own: what another said goes no
// further unless it is said again.
func ours(err *connect.Error) *connect.Error {
	if !err.IsRemote() {
		return err
	}
	out := connect.NewError(err.Code(), err.Message())
	for _, detail := range err.Details() {
		out = out.WithDetail(detail)
	}
	return out
}

// said is what a person may read of any error.
func (s *Server) said(ctx context.Context, err error) string {
	var already *connect.Error
	if errors.As(err, &already) {
		return already.Message()
	}
	_, text, _ := s.explain(ctx, err)
	return text
}

func (s *Server) explain(ctx context.Context, err error) (connect.Code, string, *skeinv1.ErrorInfo) {
	var (
		own      *refusal
		conflict *state.ConflictError
		manifest *object.ManifestError
		missing  NotFound
	)
	switch {
	case errors.As(err, &own):
		return own.code, err.Error(), &skeinv1.ErrorInfo{Hint: own.hint, ExitCode: own.exit}
	case errors.As(err, &manifest):
		return connect.CodeInvalidArgument, err.Error(), &skeinv1.ErrorInfo{Hint: manifest.Hint, ExitCode: exitUsage}
	case errors.As(err, &conflict):
		return connect.CodeAborted, fmt.Sprintf("%s has changed since it was read; nothing was changed", conflict.Key),
			&skeinv1.ErrorInfo{Hint: "try again", ExitCode: exitFailed}
	case errors.Is(err, consensus.ErrNotLeader):
		return connect.CodeUnavailable, "no leader: a majority of the voters cannot be reached; nothing was changed",
			&skeinv1.ErrorInfo{Hint: hintNoLeader, ExitCode: exitNoLeader}
	case errors.As(err, &missing):
		return connect.CodeNotFound, err.Error(), &skeinv1.ErrorInfo{ExitCode: exitFailed}
	case ctx.Err() != nil || errors.Is(err, context.Canceled):
		return connect.CodeCanceled, "cancelled", &skeinv1.ErrorInfo{ExitCode: exitCancelled}
	case errors.Is(err, context.DeadlineExceeded):
		return connect.CodeDeadlineExceeded, "no answer in time", &skeinv1.ErrorInfo{ExitCode: exitFailed}
	}
	return connect.CodeInternal, "internal error; the log of node " + s.cfg.Name + " has the cause", &skeinv1.ErrorInfo{ExitCode: exitFailed}
}

var errNotLeader = consensus.ErrNotLeader
