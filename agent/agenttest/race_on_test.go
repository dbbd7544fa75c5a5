//go:build race

package agenttest

// seedsByDefault is how many seeds a run of all tests has time for; the race
// detector takes its time.
const seedsByDefault = 4

// hoursByDefault is how many node-hours of it are searched for a false alarm.
const hoursByDefault = 0.1
