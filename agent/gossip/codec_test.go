package gossip

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func anyMeta(t *rapid.T) Meta {
	u32 := rapid.Uint32()
	share := rapid.Custom(func(t *rapid.T) Permille { return Permille(rapid.Uint16Range(0, 1000).Draw(t, "share")) })
	return Meta{
		Format: u32.Draw(t, "format"), Epoch: rapid.Uint64().Draw(t, "epoch"),
		Load: Load{
			CPU: share.Draw(t, "cpu"), Memory: share.Draw(t, "memory"), Disk: share.Draw(t, "disk"),
			Load1: u32.Draw(t, "load"), Cores: u32.Draw(t, "cores"), MemoryMB: u32.Draw(t, "mb"), DiskMB: u32.Draw(t, "diskmb"),
			Pressure: Pressure{
				Known: rapid.Bool().Draw(t, "known"), CPU: share.Draw(t, "pcpu"),
				Memory: share.Draw(t, "pmem"), IO: share.Draw(t, "pio"),
			},
		},
	}
}

func TestMetaIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyMeta(t)
		data := appendMeta(nil, want)
		if len(data) > 60 {
			t.Fatalf("%d bytes, want few", len(data))
		}
		got, err := parseMeta(data)
		if err != nil || got != want {
			t.Fatalf("got %+v (%v), want %+v", got, err, want)
		}
		// A later build may say more.
		if got, err := parseMeta(append(data, "and more"...)); err != nil || got != want {
			t.Fatalf("with more behind: got %+v (%v), want %+v", got, err, want)
		}
		for n := range data {
			if _, err := parseMeta(data[:n]); err == nil {
				t.Fatalf("read from the first %d of %d bytes", n, len(data))
			}
		}
	})
}

func TestOnlyWhatIsNoticeableIsSaid(t *testing.T) {
	base := Meta{Format: 1, Epoch: 7, Load: Load{CPU: 500, Memory: 300, Cores: 4, Load1: 100, MemoryMB: 8000, DiskMB: 9000}}
	tests := map[string]struct {
		change func(*Meta)
		want   bool
	}{
		"nothing":          {func(*Meta) {}, false},
		"a little work":    {func(m *Meta) { m.Load.CPU += 49 }, false},
		"more work":        {func(m *Meta) { m.Load.CPU += 50 }, true},
		"less memory used": {func(m *Meta) { m.Load.Memory -= 60 }, true},
		"a little load":    {func(m *Meta) { m.Load.Load1 += 199 }, false},
		"load":             {func(m *Meta) { m.Load.Load1 += 200 }, true},
		"pressure":         {func(m *Meta) { m.Load.Pressure.IO = 100 }, true},
		"another format":   {func(m *Meta) { m.Format++ }, true},
		"another boot":     {func(m *Meta) { m.Epoch++ }, true},
		"more memory":      {func(m *Meta) { m.Load.MemoryMB *= 2 }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			after := base
			tt.change(&after)
			if got := noticeable(base, after); got != tt.want {
				t.Errorf("noticeable = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLoadIsReadFromProc(t *testing.T) {
	proc := fstest.MapFS{
		"stat":            {Data: []byte("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1 1 1\ncpu1 1 1 1 1 1 1\nintr 1 2 3\n")},
		"meminfo":         {Data: []byte("MemTotal:        8192000 kB\nMemFree:  1 kB\nMemAvailable:    6144000 kB\n")},
		"loadavg":         {Data: []byte("1.25 0.50 0.10 2/300 4000\n")},
		"pressure/cpu":    {Data: []byte("some avg10=12.34 avg60=0.00 avg300=0.00 total=0\n")},
		"pressure/memory": {Data: []byte("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=9.00 avg60=0 avg300=0 total=0\n")},
		"pressure/io":     {Data: []byte("some avg10=100.00 avg60=0.00 avg300=0.00 total=0\n")},
	}
	disk := func() (uint64, uint64, error) { return 25 << 30, 100 << 30, nil }
	s := NewSampler(proc, disk)
	if _, err := s.Sample(); err != nil {
		t.Fatal(err)
	}
	proc["stat"] = &fstest.MapFile{Data: []byte("cpu  160 0 120 1000 120 0 0 0 0 0\ncpu0 1 1 1 1 1 1\ncpu1 1 1 1 1 1 1\n")}
	got, err := s.Sample()
	if err != nil {
		t.Fatal(err)
	}
	want := Load{
		CPU: 200, Memory: 250, Disk: 250, Load1: 125, Cores: 2, MemoryMB: 8000, DiskMB: 102400,
		Pressure: Pressure{Known: true, CPU: 123, IO: 1000},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("load (-want +got):\n%s", diff)
	}

	delete(proc, "pressure/cpu")
	delete(proc, "pressure/memory")
	delete(proc, "pressure/io")
	delete(proc, "meminfo")
	got, err = s.Sample()
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without meminfo: error %v, want it said", err)
	}
	if got.Memory != 250 || got.Pressure.Known {
		t.Errorf("without meminfo and pressure: %+v, want the memory of before and no pressure", got)
	}
}

func mustSeal(t testing.TB, name string, keys ...[]byte) *seal {
	t.Helper()
	s, err := newSeal(name, 1, keys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func everybody(string) bool { return true }

var otherKey = []byte("another key of thirty-two bytes!")

func TestASealedDatagramOpensOnlyAsItWas(t *testing.T) {
	a, b, stranger := mustSeal(t, "a", testKey), mustSeal(t, "b", testKey), mustSeal(t, "b", otherKey)
	sealed := a.close(nil, []byte("\x01hello"))
	h, plain, err := b.open(sealed, nil, everybody)
	if err != nil || string(plain) != "\x01hello" || string(h.name) != "a" || h.epoch != 1 || h.seq != 1 {
		t.Fatalf("got %+v %q %v", h, plain, err)
	}
	if _, _, err := stranger.open(sealed, nil, everybody); err == nil {
		t.Error("opened with another key")
	}
	if _, _, err := b.open(sealed, nil, func(string) bool { return false }); err != nil {
		t.Error("a sender that was heard before is asked for again")
	}
	if _, _, err := mustSeal(t, "c", testKey).open(sealed, nil, func(string) bool { return false }); err == nil {
		t.Error("opened from an unknown sender")
	}
	for i := range sealed {
		for _, bit := range []byte{1, 128} {
			bad := bytes.Clone(sealed)
			bad[i] ^= bit
			if _, _, err := b.open(bad, nil, everybody); err == nil {
				t.Errorf("opened with byte %d changed", i)
			}
		}
	}
	for n := range sealed {
		if _, _, err := b.open(sealed[:n], nil, everybody); err == nil {
			t.Errorf("opened from the first %d bytes", n)
		}
	}
}

func TestKeysRotateWithoutAGap(t *testing.T) {
	a, b := mustSeal(t, "a", testKey), mustSeal(t, "b", testKey)
	talk := func(when string) {
		t.Helper()
		for _, way := range [][2]*seal{{a, b}, {b, a}} {
			if _, _, err := way[1].open(way[0].close(nil, []byte{kindBeat}), nil, everybody); err != nil {
				t.Errorf("%s: %s does not hear %s", when, way[1].name, way[0].name)
			}
		}
	}
	for _, round := range [][][]byte{{testKey, otherKey}, {otherKey, testKey}, {otherKey}} {
		_ = a.setKeys(round)
		talk("half way")
		_ = b.setKeys(round)
		talk("at the end of a round")
	}
	if _, _, err := a.open(mustSeal(t, "c", testKey).close(nil, []byte{kindBeat}), nil, everybody); err == nil {
		t.Error("the old key still opens")
	}
	if err := a.setKeys([][]byte{[]byte("short")}); err == nil {
		t.Error("took a key of five bytes")
	}
	talk("after a refused key")
}

func TestBeatsCostNoMemory(t *testing.T) {
	a, b := mustSeal(t, "a", testKey), mustSeal(t, "b", testKey)
	var out, plain, scratch []byte
	beatOnce := func() {
		plain = appendBeat(plain[:0], beat{view: 1})
		out = a.close(out[:0], plain)
		_, body, err := b.open(out, scratch[:0], everybody)
		if err != nil {
			t.Fatal(err)
		}
		scratch = body[:0]
	}
	beatOnce()
	if n := testing.AllocsPerRun(100, beatOnce); n > 0 {
		t.Errorf("%v allocations to seal and open a beat, want none", n)
	}
}

func BenchmarkBeat(b *testing.B) {
	from, to := mustSeal(b, "a", testKey), mustSeal(b, "b", testKey)
	var out, scratch []byte
	plain := appendBeat(nil, beat{view: 1})
	b.ReportAllocs()
	for b.Loop() {
		out = from.close(out[:0], plain)
		_, body, _ := to.open(out, scratch[:0], everybody)
		scratch = body[:0]
	}
}

func FuzzDatagrams(f *testing.F) {
	s := mustSeal(f, "a", testKey)
	f.Add(appendBeat(nil, beat{view: 3, farewell: true}))
	f.Add(appendPing(nil, ping{1, 2}))
	f.Add(appendPong(nil, pong{1}))
	f.Add(append([]byte{kindClaim}, appendClaim(nil, claim{observer: "a", node: "b", what: claimGone, sig: []byte("x")})...))
	f.Add(s.close(nil, []byte{kindLeave}))
	f.Add(appendHint(nil, hint{name: "a", epoch: 1, seq: 2, data: []byte("blobs")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		// As it comes, and as the plain text of somebody with the key.
		_, _, _ = s.open(data, nil, everybody)
		if len(data) > 0 && len(data) < 900 {
			if _, plain, err := s.open(s.close(nil, data), nil, everybody); err != nil || !bytes.Equal(plain, data) {
				t.Fatalf("sealed %q, opened %q (%v)", data, plain, err)
			}
			_, _ = parseBeat(data[1:])
			_, _ = parsePing(data[1:])
			_, _ = parsePong(data[1:])
		}
		c, signed, err := parseClaim(data)
		if err == nil && !bytes.Equal(append(appendClaim(nil, c), c.sig...), data) {
			t.Fatalf("claim %+v is not what was read", c)
		}
		if err == nil && len(signed)+len(c.sig) != len(data) {
			t.Fatal("a part of the claim is neither signed nor signature")
		}
		if h, err := parseHint(data); err == nil && !bytes.Equal(appendHint(nil, h), data) {
			t.Fatalf("hint %+v is not what was read", h)
		}
		if _, err := parseHint(data); err == nil {
			if _, _, err := parseClaim(data); err == nil {
				t.Fatal("what is a hint is a claim to builds before")
			}
		}
		if m, err := parseMeta(data); err == nil {
			if again, err := parseMeta(appendMeta(nil, m)); err != nil || again != m {
				t.Fatalf("meta %+v became %+v (%v)", m, again, err)
			}
		}
		_, _ = readMessage(bytes.NewReader(data), [][]byte{testKey}, 3)
		_ = plausible(data)
	})
}

func TestClaimsNeedTwoObserversOfMyView(t *testing.T) {
	ring := NewRing(names(12), nil)
	by := ring.Observers("n1")
	var stranger string
	for _, n := range names(12) {
		if n != "n1" && !slices.Contains(by, n) {
			stranger = n
		}
	}
	now := nowForTests
	say := func(seq uint64, observer string, what claimed) claim {
		return claim{observer: observer, epoch: 1, seq: seq, node: "n1", boot: 5, what: what}
	}
	tests := map[string]struct {
		said []claim
		want claimed
	}{
		"one":                     {[]claim{say(1, by[0], claimSilent)}, claimCleared},
		"one, twice":              {[]claim{say(1, by[0], claimSilent), say(2, by[0], claimSilent)}, claimCleared},
		"two":                     {[]claim{say(1, by[0], claimSilent), say(1, by[1], claimSilent)}, claimSilent},
		"one and a stranger":      {[]claim{say(1, by[0], claimSilent), say(1, stranger, claimSilent)}, claimCleared},
		"one and the node itself": {[]claim{say(1, by[0], claimSilent), say(1, "n1", claimSilent)}, claimCleared},
		"two, one takes it back":  {[]claim{say(1, by[0], claimSilent), say(1, by[1], claimSilent), say(2, by[1], claimCleared)}, claimCleared},
		"taken back, and played back": {
			[]claim{say(1, by[0], claimSilent), say(2, by[1], claimCleared), say(1, by[1], claimSilent)}, claimCleared,
		},
		"the kernel answers both": {[]claim{say(1, by[0], claimGone), say(1, by[1], claimGone)}, claimGone},
		"the kernel answers one":  {[]claim{say(1, by[0], claimGone), say(1, by[1], claimSilent)}, claimGone},
		"the kernel answers one of three": {
			[]claim{say(1, by[0], claimGone), say(1, by[1], claimSilent), say(1, by[2], claimSilent)}, claimSilent,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			table := newClaims()
			for _, c := range tt.said {
				if table.news(c, ring) {
					table.put(now, c)
				}
			}
			if got := table.of(now, "n1", 5); got != tt.want {
				t.Errorf("agreed on %v, want %v", got, tt.want)
			}
			if got := table.of(now, "n1", 6); got != claimCleared {
				t.Errorf("of the boot after: agreed on %v, want nothing", got)
			}
			if got := table.of(now.Add(claimExpires), "n1", 5); got != claimCleared {
				t.Errorf("later: agreed on %v, want it forgotten", got)
			}
			if table.prune(now.Add(claimExpires), ring); len(table.by) > 0 {
				t.Errorf("%d claims kept, want none", len(table.by))
			}
		})
	}
}

// message seals a plain text as memberlist seals its streams.
func message(version byte, plain string) []byte {
	length := sealHead + len(plain) + tagSize
	head := binary.BigEndian.AppendUint32([]byte{streamSealed}, uint32(length))
	block, _ := aes.NewCipher(testKey)
	aead, _ := cipher.NewGCM(block)
	nonce := make([]byte, 12)
	return append(append(bytes.Clone(head), append([]byte{version}, nonce...)...), aead.Seal(nil, nonce, []byte(plain), head)...)
}

func TestStreamsOfOtherShapesNeverReachMemberlist(t *testing.T) {
	header := func(nodes string) string { return "\x06\x83\xa4Join\xc3\xa5Nodes" + nodes + "\xacUserStateLen\x00" }
	member := strings.Repeat("x", 60)
	huge := message(1, header("\x01")+member)
	copy(huge[1:], "\x01\x00\x00\x00")
	tests := map[string]struct {
		data []byte
		ok   bool
	}{
		"a ping":                     {message(1, "\x00..."), true},
		"an exchange of two":         {message(1, header("\x02")+member+member), true},
		"one that promises too many": {message(1, header("\xce\x00\x0f\xff\xff")+member), false},
		"or less than none":          {message(1, header("\xd3\xff\xff\xff\xff\xff\xff\xff\xff")+member), false},
		"one with a rider":           {message(1, "\x06\x83\xa4Join\xc2\xa5Nodes\x00\xacUserStateLen\xce\x01\x00\x00\x00"+member), false},
		"fields in another order":    {message(1, "\x06\x83\xa5Nodes\x00\xa4Join\xc2\xacUserStateLen\x00"), false},
		"a message to the user":      {message(1, "\x08..."), false},
		"a compressed one":           {message(1, "\x09..."), false},
		"padded":                     {message(0, "\x00..."), false},
		"empty":                      {message(1, ""), false},
		"plain":                      {[]byte(header("\x01") + member), false},
		"labelled":                   {append([]byte{244, 1, 'x'}, message(1, "\x00...")...), false},
		"sixteen MB long":            {huge, false},
		"cut short":                  {message(1, header("\x01")+member)[:40], false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readMessage(bytes.NewReader(tt.data), [][]byte{otherKey, testKey}, 3)
			if (err == nil) != tt.ok || tt.ok && !bytes.Equal(got, tt.data) {
				t.Errorf("error %v, want ok %v", err, tt.ok)
			}
		})
	}
}

func TestMemberlistsLinesBecomeOurs(t *testing.T) {
	var out strings.Builder
	logger := bridge(testLogger(&out))
	logger.Printf("[ERR] memberlist: Failed to send %s", "x")
	logger.Printf("[DEBUG] memberlist: noise")
	if got := out.String(); !strings.Contains(got, `level=WARN msg="memberlist says" text="Failed to send x"`) || strings.Contains(got, "noise") {
		t.Errorf("got %q", got)
	}
}
