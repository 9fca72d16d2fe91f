// Package command has the two machines of docs/protocol.md §6 at its ends: Sender,
// which command is sent when and what its result is, and Receiver, what is delivered
// and what is answered. Neither has a clock, goroutine or I/O; their callers give
// them facts and the time, and guard them.
package command
