package place

import "math/bits"

// A Layer is a piece of an image that other images may share.
type Layer struct {
	Digest string
	Size   int64 // bytes to transfer
}

// An Image is what placement knows of what a Shape names.
type Image struct {
	Name   string
	Digest string // by which nodes name it too: the name alone may mean another
	Layers []Layer
}

// unknownSize is what an image counts for whose layers nobody has told, in bytes.
const unknownSize = 64 << 20

// library is what images are made of, in small numbers. It is made anew when an
// image has changed, which is seldom.
type library struct {
	images map[string]Image // by name
	turn   uint64           // counts changes
	made   uint64           // at which turn what follows was made

	ids      map[string]int32   // of layers
	byDigest map[string][]layer // of an image
}

type layer struct {
	id   int32
	size int64
}

// PutImage adds an image or replaces what was known of it.
func (v *View) PutImage(img Image) {
	v.library.images[img.Name] = img
	v.library.turn++
}

// RemoveImage forgets what an image is made of.
func (v *View) RemoveImage(name string) {
	delete(v.library.images, name)
	v.library.turn++
}

func (l *library) refresh() {
	if l.made == l.turn {
		return
	}
	l.made, l.ids, l.byDigest = l.turn, map[string]int32{}, map[string][]layer{}
	for _, img := range l.images {
		if _, done := l.byDigest[img.Digest]; done || len(img.Layers) == 0 {
			continue
		}
		list := make([]layer, 0, len(img.Layers))
		for _, p := range img.Layers {
			id, known := l.ids[p.Digest]
			if !known {
				id = int32(len(l.ids))
				l.ids[p.Digest] = id
			}
			list = append(list, layer{id, p.Size})
		}
		l.byDigest[img.Digest] = list
	}
}

// wanted is an image of a Shape, as nodes may have it.
type wanted struct {
	id     int32   // among what nodes say they hold; -1: none says so
	layers []layer // nil: unknown
}

// wants looks up the images of a Shape.
func (v *View) wants(names []string) []wanted {
	v.library.refresh()
	out := make([]wanted, len(names))
	for i, name := range names {
		w := wanted{id: -1}
		if img, known := v.library.images[name]; known {
			w.layers, name = v.library.byDigest[img.Digest], img.Digest
		}
		if id, held := v.images.ids[name]; held {
			w.id = id
		}
		out[i] = w
	}
	return out
}

// lacks tells how much a node would have to fetch, as sizeStep has it.
func (v *View) lacks(n *node, images []wanted) uint8 {
	var bytes int64
	for _, w := range images {
		switch {
		case hasBit(n.images, w.id):
		case w.layers == nil:
			bytes += unknownSize
		default:
			held := v.layersOf(n)
			for _, l := range w.layers {
				if !hasBit(held, l.id) {
					bytes += max(l.size, 1)
				}
			}
		}
	}
	return sizeStep(bytes)
}

// layersOf are the layers of the images that a node holds.
func (v *View) layersOf(n *node) []uint64 {
	if n.layersAt != v.library.made {
		n.layersAt, n.layers = v.library.made, nil
		for _, name := range n.Images {
			for _, l := range v.library.byDigest[name] {
				n.layers = setBit(n.layers, l.id)
			}
		}
	}
	return n.layers
}

// sizeStep is 0 for nothing, and else from 1 up to 31: two steps for each doubling,
// from 1 MiB to 32 GiB.
func sizeStep(bytes int64) uint8 {
	if bytes <= 0 {
		return 0
	}
	mib := uint64(bytes) >> 20
	if mib == 0 {
		return 1
	}
	n := bits.Len64(mib)
	half := 0
	if n > 1 {
		half = int(mib>>(n-2)) & 1
	}
	return uint8(min(2*n+half, 31)) //nolint:gosec // bounded
}
