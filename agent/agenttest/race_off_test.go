//go:build !race

package agenttest

// seedsByDefault is how many seeds a run of all tests has time for.
const seedsByDefault = 24

// hoursByDefault is how many node-hours of it are searched for a false alarm.
const hoursByDefault = 0.5
