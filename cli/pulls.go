package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// maxPullLines bounds how many images on their way are shown at once: what is
// higher than the terminal could not be erased.
const maxPullLines = 8

// pulling shows how far images are that subject waits for: on a terminal a line
// for each that is drawn over and over, elsewhere one as it begins. One that has
// come is said once.
func (p *progress) pulling(subject string, pulls []*skeinv1.ImagePull) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	var lines []string
	for _, pull := range pulls {
		key := pull.GetNode() + " " + pull.GetImage()
		switch {
		case pull.GetDone() && p.pulls[key]:
			delete(p.pulls, key)
			if line := arrived(pull); line != "" {
				fmt.Fprintln(p.w, line)
			}
		case pull.GetDone():
		default:
			if !p.pulls[key] && !p.live {
				fmt.Fprintln(p.w, clean(pull.GetNode()+" pulls "+pull.GetImage()))
			}
			p.pulls[key] = true
			lines = append(lines, coming(pull))
		}
	}
	if p.coming[subject] = lines; len(lines) == 0 {
		delete(p.coming, subject)
	}
	p.draw()
}

// below are the lines of all subjects, each once.
func (p *progress) below() []string {
	var lines []string
	for _, l := range p.coming {
		lines = append(lines, l...)
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	if n := len(lines); n > maxPullLines {
		lines = append(lines[:maxPullLines-1], fmt.Sprintf("and %d more", n-maxPullLines+1))
	}
	return lines
}

// coming says how far an image is.
func coming(p *skeinv1.ImagePull) string {
	verb, parts := "pulling", []string{}
	if p.GetLayers() > 0 {
		amount := fmt.Sprintf("%.1f of %s", float64(p.GetBytesDone())/1e6, megabytes(p.GetBytes()))
		if p.GetLayersDone() == p.GetLayers() {
			verb, amount = "unpacking", megabytes(p.GetBytes())
		}
		parts = append(parts, fmt.Sprintf("%d/%d layers", p.GetLayersDone(), p.GetLayers()), amount)
	}
	if p.GetFetched() > 0 && p.GetElapsedMs() > 0 && verb == "pulling" {
		parts = append(parts, megabytes(p.GetFetched()*1000/p.GetElapsedMs())+"/s")
	}
	if len(p.GetFrom()) > 0 {
		parts = append(parts, "from "+strings.Join(p.GetFrom(), ", "))
	}
	return clean(strings.Join(append([]string{p.GetNode(), verb + " " + p.GetImage()}, parts...), "  "))
}

// arrived says how an image came; why one did not, the Pod says.
func arrived(p *skeinv1.ImagePull) string {
	if p.GetError() != "" {
		return ""
	}
	took := time.Duration(p.GetElapsedMs()) * time.Millisecond
	line := fmt.Sprintf("%s has %s after %s: ", p.GetNode(), p.GetImage(), took.Round(100*time.Millisecond))
	if p.GetFetched() == 0 {
		return clean(line + "its layers were there")
	}
	line += megabytes(p.GetFetched())
	if len(p.GetFrom()) > 0 {
		line += " from " + strings.Join(p.GetFrom(), ", ")
	}
	return clean(line)
}
