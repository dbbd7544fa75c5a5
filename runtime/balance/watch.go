package balance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// settle is how long changes of others may gather before they are told.
const settle = 50 * time.Millisecond

// Watch calls changed when others than this process have changed something in the
// table, or the table itself, until ctx ends. Repair then looks, and mends.
func (t *Table) Watch(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: t.ns})
	if err != nil {
		return fmt.Errorf("listen to nftables: %w", err)
	}
	defer func() { _ = conn.Close() }() // it was only read from
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("listen to nftables: %w", err)
	}
	_ = conn.SetReadBuffer(socketBuffer) // what does not fit is told as an error
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
	touched := false
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed()
			continue
		case err != nil:
			return fmt.Errorf("listen to nftables: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
				touched = touched || ours(m.Data)
				continue
			}
			if touched && !mine(m.Data) { // the last message of a transaction tells who made it
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(settle):
				}
				changed()
			}
			touched = false
		}
	}
}

// ours tells whether a message is about the table: each has its name first.
func ours(data []byte) bool {
	return attribute(data, 1, func(a *netlink.AttributeDecoder) bool { return a.String() == Name })
}

// mine tells whether a transaction is this process's: the kernel names the thread.
func mine(data []byte) bool {
	return attribute(data, unix.NFTA_GEN_PROC_PID, func(a *netlink.AttributeDecoder) bool {
		_, err := os.Stat("/proc/self/task/" + strconv.FormatUint(uint64(a.Uint32()), 10))
		return err == nil
	})
}

func attribute(data []byte, kind uint16, holds func(*netlink.AttributeDecoder) bool) bool {
	if len(data) < 4 {
		return false
	}
	attrs, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return false
	}
	attrs.ByteOrder = binary.BigEndian
	for attrs.Next() {
		if attrs.Type() == kind {
			return holds(attrs)
		}
	}
	return false
}
