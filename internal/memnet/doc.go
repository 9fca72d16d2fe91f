// Package memnet is a network in memory, for tests: a listener and connections
// that behave like TCP on one machine, with buffers of a size, deadlines and
// half-close, and that stall, lose, delay and cut when told to.
//
// Everything waits on channels and timers alone, so that it works inside a
// testing/synctest bubble, where a blocked Read is idle and
// deadlines and delays take no time. A Listener and its connections belong to
// the bubble in which they were made.
package memnet
