// Package agenttest runs whole clusters in one test: complete agents (identity
// and TLS, gossip and ring, raft, API, leader, node) on machines that are
// models: a network that loses and delays, disks that tear what was not synced,
// a runtime that runs nothing. All of it lives in one synctest bubble, so hours
// pass in seconds and no socket is opened.
//
// A Cluster owns the machines and what may befall them, a Simulation the seeded
// faults, the users and the invariants. A seed fixes faults and workload, not
// how goroutines interleave: docs/simulation.md tells how a failure is repeated.
package agenttest
