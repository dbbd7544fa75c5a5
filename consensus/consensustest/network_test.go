package consensustest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair connects two hosts and returns both ends.
func pair(t *testing.T, a, b *Host) (net.Conn, net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	mine, err := a.Dial(ctx, b.name)
	if err != nil {
		t.Fatal(err)
	}
	its, err := b.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return mine, its
}

// hears reads what was written, or returns why not within a second.
func hears(c net.Conn, want string) error {
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != want {
		return errors.New("heard " + string(got))
	}
	return nil
}

func say(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := io.WriteString(c, what); err != nil {
		t.Fatal(err)
	}
}

func TestNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b := n.Boot("a"), n.Boot("b")
		left, right := pair(t, a, b)
		for _, word := range []string{"one", "two", "three"} {
			say(t, left, word)
		}
		if err := hears(right, "onetwothree"); err != nil {
			t.Errorf("in order: %v", err)
		}

		n.Cut("a", "b")
		say(t, left, "held")
		say(t, right, "passes")
		if err := errors.Join(hears(left, "passes")); err != nil {
			t.Errorf("the other way: %v", err)
		}
		if err := hears(right, "held"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("over a cut link: %v", err)
		}
		n.Heal()
		if err := hears(right, "held"); err != nil {
			t.Errorf("once it is whole: %v", err)
		}

		n.Delay(100*time.Millisecond, 0.3)
		begun := time.Now()
		for range 20 {
			say(t, left, "x")
		}
		if err := hears(right, "xxxxxxxxxxxxxxxxxxxx"); err != nil && time.Since(begun) < time.Second {
			t.Errorf("late: %v", err)
		}
		n.Heal()

		if err := left.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if _, err := io.Copy(io.Discard, right); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the end: %v", err)
		}
		left, right = pair(t, a, b)
		a.Kill()
		if err := hears(right, "x"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("of a killed process: %v", err)
		}
		if _, err := b.Dial(t.Context(), "a"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("to a killed process: %v", err)
		}
		_ = left.Close() // is reset
	})
}

func TestAMachineWithoutPowerIsSilentUntilItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, b := n.Boot("a"), n.Boot("b")
		left, right := pair(t, a, b)
		a.PowerOff()
		if _, err := io.WriteString(left, "from the dead"); err == nil {
			t.Error("a machine without power writes")
		}
		if err := hears(right, "from the dead"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it is heard: %v", err)
		}
		n.Boot("a")
		if err := hears(right, "x"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("once it is back: %v", err)
		}
	})
}
