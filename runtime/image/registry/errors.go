package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
)

// An Error says why a registry does not give what it was asked for.
type Error struct {
	Host   string        // of the registry
	Status int           // its HTTP status, 0: it never came to that
	Reason string        // in its own words, where it had some, on one line
	After  time.Duration // it asks to be left alone for so long; 0: it does not say
	Err    error         // what went wrong on the way, or nil

	final bool // containerd need not look at it
}

func (e *Error) Error() string {
	text := "registry " + e.Host + ": "
	if e.Status != 0 {
		text += strconv.Itoa(e.Status) + " "
	}
	text += e.Reason
	if e.Err != nil {
		if e.Reason != "" {
			text += ": "
		}
		text += e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Denied tells whether the registry wants other credentials, or none of them will
// do.
func (e *Error) Denied() bool {
	return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
}

// Missing tells whether the registry has no such image. Many say so of those that
// one may not see, too.
func (e *Error) Missing() bool { return e.Status == http.StatusNotFound }

// Unreachable tells whether the registry could not answer for now, so that what
// is known already may do.
func (e *Error) Unreachable() bool {
	var no *forbiddenError
	return e.Status == 0 && e.Err != nil && !errors.As(e.Err, &no) || e.Status == http.StatusTooManyRequests ||
		e.Status == http.StatusRequestTimeout || e.Status >= http.StatusInternalServerError
}

// Again tells whether asking once more may help, and how long to wait before: it
// makes an Error an image.Refusal.
func (e *Error) Again() (after time.Duration, ok bool) { return e.After, e.Unreachable() }

// maxWords is how much of a refusal is read, in bytes, and maxReason how much of
// that is told.
const (
	maxWords  = 8 << 10
	maxReason = 300
)

// refusal reads why a request was refused, and leaves the response as it was.
// nil: it was not.
func refusal(host string, req *http.Request, res *http.Response) *Error {
	if res.StatusCode < http.StatusBadRequest {
		return nil
	}
	words, _ := io.ReadAll(io.LimitReader(res.Body, maxWords))
	_ = res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(words))
	e := &Error{Host: host, Status: res.StatusCode, Reason: reason(words), After: retryAfter(res.Header.Get("Retry-After"))}
	if e.Reason == "" {
		e.Reason = strings.ToLower(http.StatusText(res.StatusCode))
		if res.StatusCode == http.StatusNotFound {
			e.Reason = "has no such image or tag"
		}
	}
	if req.URL.Host != host && !strings.HasSuffix(req.URL.Host, "."+host) {
		e.Reason += " (" + req.URL.Host + ")"
	}
	switch {
	case e.Status == http.StatusUnauthorized: // a question for credentials, to be answered
	case e.Status == http.StatusMethodNotAllowed: // some cannot HEAD
	case e.Status == http.StatusRequestedRangeNotSatisfiable: // some know no ranges
	case req.Method == http.MethodPost: // some give out tokens only to who asks another way
	default:
		e.final = true
	}
	return e
}

// reason reads the errors of the distribution specification, or whatever else was
// said, if that is short text.
func reason(words []byte) string {
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Detail  any    `json:"detail"`
		} `json:"errors"`
		Details string `json:"details"` // of token servers
		Message string `json:"message"`
	}
	if json.Unmarshal(words, &body) == nil {
		var texts []string
		for _, e := range body.Errors {
			text := e.Message
			if text == "" {
				text = strings.ToLower(strings.ReplaceAll(e.Code, "_", " "))
			}
			if detail, ok := e.Detail.(string); ok && detail != "" {
				text += ": " + detail
			}
			texts = append(texts, text)
		}
		if len(texts) == 0 {
			texts = append(texts, strings.TrimSpace(body.Details+" "+body.Message))
		}
		return clean(strings.Join(texts, "; "))
	}
	if bytes.IndexByte(words, '<') >= 0 {
		return "" // a page for browsers
	}
	return clean(string(words))
}

// clean makes text of strangers fit to be printed on one line.
func clean(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if r := []rune(s); len(r) > maxReason {
		s = string(r[:maxReason]) + "…"
	}
	return s
}

// retryAfter reads seconds; a date is as good as none. It is at most an hour.
func retryAfter(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, time.Hour) //nolint:gosec // 32 bits
}

// note remembers a refusal: what comes of it may be told without its words.
func (s *Source) note(e *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = e
}

// explain says in our words what containerd says of a failure.
func (s *Source) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	s.mu.Lock()
	told := s.told
	s.mu.Unlock()
	switch {
	case told != nil && (told.Status == http.StatusUnauthorized || told.Status == http.StatusRequestedRangeNotSatisfiable || errors.Is(err, docker.ErrInvalidAuthorization)):
		return told
	case errdefs.IsNotFound(err):
		return &Error{Host: s.host, Status: http.StatusNotFound, Reason: "has no such image or tag"}
	}
	return &Error{Host: s.host, Err: shorten(err)}
}

// shorten leaves out what containerd and net/http put before a cause.
func shorten(err error) error {
	for {
		switch next := errors.Unwrap(err); {
		case next == nil:
			return err
		case strings.HasPrefix(err.Error(), "failed to do request: "), strings.HasPrefix(err.Error(), "Get \""), strings.HasPrefix(err.Error(), "Head \""):
			err = next
		default:
			return err
		}
	}
}
