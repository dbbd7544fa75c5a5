// Package power cuts the power under a process. Run starts a program, follows
// every system call of it that changes files below a directory, and kills it
// when one of its syncs begins or has ended. To kill a process loses nothing of
// what the kernel holds; so the Disk that Run returns knows what was safe by
// then, and writes out what a disk may hold after the power went: with all,
// nothing, or torn parts of the rest.
//
// The model is stricter than most filesystems. A sync makes safe the content of
// that file alone: its name is safe when its directory was synced. What was not
// synced is lost or kept in sectors of 512 bytes; truncations and allocations are
// lost or kept as such; of the changes to the names in one directory the first
// so many are kept. Writes through shared memory and links are not modelled: Run
// fails when it sees one.
package power
