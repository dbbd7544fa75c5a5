// Package consensustest has models of what agreement stands on: a Disk with
// the log, stable and snapshot stores of a node. Suite holds the models and the
// real stores to the same behaviour.
//
// A Disk keeps files as bytes. What a process writes is in the page cache at
// once and safe when its sync has ended; a loss of power keeps what was safe and
// some of the rest: a file loses its end, pages of it come back as zeros or as
// garbage, and renames that were not synced have happened or not. Whoever opens
// the stores again reads what survived. All waiting is by timers and channels,
// so it works in a synctest bubble. Chance comes from the seed alone.
package consensustest
