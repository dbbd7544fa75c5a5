package keeper

import (
	"bytes"
	"time"
)

// An assembler makes lines of frames. A line may span frames, and a frame may
// hold many lines; the two streams do not touch each other.
type assembler struct {
	each func(Line) error
	part [Lost]pending // by stream, less one
}

type pending struct {
	text []byte
	time time.Time // of the first byte
}

func newAssembler(each func(Line) error) *assembler { return &assembler{each: each} }

func (a *assembler) add(stream byte, t time.Time, data []byte) error {
	if stream == Lost {
		text := append([]byte("[skein: lost "), data...)
		text = append(text, " bytes of output that could not be written]"...)
		return a.each(Line{Time: t, Stream: Stderr, Text: text})
	}
	p := &a.part[stream-1]
	for len(data) > 0 {
		line, rest, whole := bytes.Cut(data, []byte{'\n'})
		if len(p.text) == 0 {
			p.time = t
		}
		if room := MaxLine - len(p.text); len(line) > room {
			// The rest is looked at again with the newline that may follow it.
			line, rest, whole = line[:room], data[room:], false
		}
		data = rest
		switch {
		case len(p.text) > 0 || !whole:
			p.text = append(p.text, line...)
			line = p.text
		}
		if !whole && len(line) < MaxLine {
			return nil // data is used up
		}
		if err := a.each(Line{Time: p.time, Stream: stream, Partial: !whole, Text: line}); err != nil {
			return err
		}
		p.text = p.text[:0]
	}
	return nil
}

// flush gives what has no newline yet. More may follow it.
func (a *assembler) flush(more bool) error {
	for i := range a.part {
		p := &a.part[i]
		if len(p.text) == 0 {
			continue
		}
		if err := a.each(Line{Time: p.time, Stream: byte(i + 1), Partial: more, Text: p.text}); err != nil { //nolint:gosec // 1 or 2
			return err
		}
		p.text = p.text[:0]
	}
	return nil
}
