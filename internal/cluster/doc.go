// Package cluster is what the nodes of a Dian cluster say to each other and what a node
// makes of it: packets with a MAC on a lossy bus, which messages were lost, who is where,
// and which of two sessions of one user stays. It has no clock, goroutine or I/O: its
// callers give it facts and the time, and guard it. docs/cluster.md tells the rules.
package cluster
