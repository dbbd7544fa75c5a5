package leader

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
)

func TestGossipKeysTurnInRounds(t *testing.T) {
	made := byte(0)
	fresh := func(now time.Time) object.SealKey {
		made++
		return object.SealKey{Key: []byte{made}, Created: metav1.Time{Time: now}}
	}
	now := noon
	var keys []object.SealKey
	steps := []struct {
		after time.Duration
		want  string // keys, the sealing one first
	}{
		{0, "1"},
		{time.Hour, ""},
		{23 * time.Hour, "1 2"}, // everybody can open what 2 seals
		{5 * time.Minute, ""},
		{5 * time.Minute, "2 1"}, // and what is still sealed with 1
		{5 * time.Minute, ""},
		{5 * time.Minute, "2"},
		{time.Hour, ""},
	}
	for i, s := range steps {
		now = now.Add(s.after)
		next, again := nextKeys(keys, now, fresh)
		got := ""
		for _, k := range next {
			got += fmt.Sprintf(" %d", k.Key[0])
		}
		if got = got[min(1, len(got)):]; got != s.want {
			t.Fatalf("step %d: keys %q, want %q", i, got, s.want)
		}
		if again <= 0 || again > keyLife {
			t.Fatalf("step %d: look again in %s", i, again)
		}
		if next != nil {
			keys = next
		}
	}
}

func (w *world) keys() []object.SealKey {
	row, ok := w.store.Get(state.Key{Kind: object.KindKeyring, Name: object.KeyringName})
	if !ok {
		w.t.Fatal("there is no keyring")
	}
	return decode[object.Keyring](w, row).Spec.Keys
}

func TestTheKeyringIsMadeAndTurned(t *testing.T) {
	inWorld(t, []string{"n1"}, func(w *world) {
		first := w.keys()
		if len(first) != 1 || len(first[0].Key) != keyBytes {
			t.Fatalf("keyring %v, want one key of %d bytes", first, keyBytes)
		}
		time.Sleep(keyLife)
		synctest.Wait()
		both := w.keys()
		if len(both) != 2 || string(both[0].Key) != string(first[0].Key) {
			t.Fatalf("after a day %d keys, want two of which the old one seals", len(both))
		}
		time.Sleep(keyRound + time.Minute)
		synctest.Wait()
		if keys := w.keys(); string(keys[0].Key) != string(both[1].Key) {
			t.Error("the new key does not seal")
		}
		time.Sleep(keyRound + time.Minute)
		synctest.Wait()
		if keys := w.keys(); len(keys) != 1 || string(keys[0].Key) != string(both[1].Key) {
			t.Errorf("%d keys in the end, want the new one alone", len(keys))
		}
	})
}

func TestEventsThatRepeatAreCounted(t *testing.T) {
	inWorld(t, []string{"n1"}, func(w *world) {
		r := w.lead.now.events
		about := aboutNode("x", "x")
		for range 5 {
			r.eventf(about, corev1.EventTypeNormal, "Seen", "seen by %s", "somebody")
		}
		w.settle()
		r.eventf(about, corev1.EventTypeNormal, "Seen", "seen by %s", "somebody")
		r.eventf(about, corev1.EventTypeNormal, "Seen", "seen by %s", "another")
		w.settle()
		if got := w.events("x"); got["Seen"] != 7 {
			t.Errorf("told %d times, want 7", got["Seen"])
		}
		n := 0
		for _, row := range w.store.List(object.KindEvent, "", "") {
			e := decode[corev1.Event](w, row)
			if e.InvolvedObject.Name != "x" {
				continue
			}
			n++
			if e.LastTimestamp.Before(&e.FirstTimestamp) || e.Namespace != "default" || e.Type != corev1.EventTypeNormal {
				t.Errorf("event %+v", e)
			}
		}
		if n != 2 {
			t.Errorf("%d events, want 2", n)
		}
	})
}

func TestEventsAreTrimmed(t *testing.T) {
	inWorld(t, []string{"n1"}, func(w *world) {
		event := func(i int, last time.Time) {
			w.put(&corev1.Event{
				ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("e%d", i), Namespace: "default", UID: types.UID(fmt.Sprint(i))},
				InvolvedObject: corev1.ObjectReference{Name: "old"}, LastTimestamp: metav1.Time{Time: last},
			})
		}
		for i := range 10 {
			event(i, time.Now().Add(-eventAge-time.Minute))
		}
		for i := range eventsInAll + 50 {
			event(10+i, time.Now().Add(-time.Duration(i)*time.Second/10))
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		rows := w.store.List(object.KindEvent, "", "")
		if len(rows) > eventsInAll {
			t.Errorf("%d events, want %d at most", len(rows), eventsInAll)
		}
		if len(rows) < eventsInAll-100 {
			t.Errorf("%d events, want not many fewer than %d", len(rows), eventsInAll)
		}
		time.Sleep(2 * eventAge)
		synctest.Wait()
		if rows := w.store.List(object.KindEvent, "", ""); len(rows) > 0 {
			t.Errorf("%d events after two hours, want none", len(rows))
		}
	})
}

func TestAnIdleLeaderWritesNothing(t *testing.T) {
	inWorld(t, three, func(w *world) {
		w.deploy("web", 6, "web:v1")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		before := len(w.txns)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if n := len(w.txns) - before; n > 0 {
			t.Errorf("%d transactions in half an hour in which nothing happened: last %v", n, w.txns[len(w.txns)-1])
		}
	})
}
