package identity

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Requests between nodes are HTTP/2 with prior knowledge inside TLS: net/http
// speaks HTTP/2 over TLS only where ALPN says "h2", which is what people speak.

// NodeClient makes requests to http://<node>/… over connections that dial makes,
// one a node as a rule. A connection that dies silently is noticed by pings.
func NodeClient(dial func(ctx context.Context, node string) (net.Conn, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Protocols:          onlyHTTP2(),
		DisableCompression: true,
		IdleConnTimeout:    90 * time.Second,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 3 * time.Second, // since the last frame was read
			PingTimeout:     3 * time.Second,
		},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, fmt.Errorf("dial node %q: %w", addr, err)
			}
			return dial(ctx, node)
		},
	}}
}

// NodeServer serves requests of other nodes on Mux's listener of ProtoNode. In
// its handlers PeerName says which node asks. Streams may last for ever.
func NodeServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		Protocols:         onlyHTTP2(),
		ConnContext:       ConnContext,
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 1000,
			// Who is cut off asks no more: what runs for it here must end. A client
			// that is there pings sooner than this.
			SendPingTimeout: 10 * time.Second,
			PingTimeout:     5 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// maxJoinBytes bounds a request to join.
const maxJoinBytes = 16 << 10

// JoinServer serves Mux's listener of ProtoJoin: one small request a connection.
// In its handlers PeerKey says which key the caller holds.
func JoinServer(h http.Handler, logger *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           http.MaxBytesHandler(h, maxJoinBytes),
		Protocols:         new(http.Protocols),
		ConnContext:       ConnContext,
		ReadHeaderTimeout: handshakeTimeout,
		ReadTimeout:       handshakeTimeout,
		WriteTimeout:      joinTimeout,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	s.Protocols.SetHTTP1(true)
	s.SetKeepAlivesEnabled(false)
	return s
}

func onlyHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}
