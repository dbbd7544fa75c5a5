package runc

import "sync"

// keyed is a lock for each key that is in use.
type keyed[K comparable] struct {
	mu    sync.Mutex
	locks map[K]*counted
}

type counted struct {
	sync.RWMutex
	users int
}

// lock takes the key alone and returns what gives it back.
func (k *keyed[K]) lock(key K) func() {
	c := k.take(key)
	c.Lock()
	return func() { c.Unlock(); k.give(key, c) }
}

// share takes the key together with others who share it.
func (k *keyed[K]) share(key K) func() {
	c := k.take(key)
	c.RLock()
	return func() { c.RUnlock(); k.give(key, c) }
}

func (k *keyed[K]) take(key K) *counted {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks == nil {
		k.locks = map[K]*counted{}
	}
	c := k.locks[key]
	if c == nil {
		c = &counted{}
		k.locks[key] = c
	}
	c.users++
	return c
}

func (k *keyed[K]) give(key K, c *counted) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.users--; c.users == 0 {
		delete(k.locks, key)
	}
}
