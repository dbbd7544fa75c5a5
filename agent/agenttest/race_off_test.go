//go:build !race

package agenttest

// seedsByDefault is how many seeds a run of all tests has time for.
const seedsByDefault = 24
