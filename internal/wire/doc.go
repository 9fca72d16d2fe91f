// Package wire is the session's language: the frames generated from
// proto/dian/v1/session.proto, how they are cut out of WebSocket messages, the
// codes, the limits and the rules for names. It does no I/O and reads no clock;
// what it decodes comes from a peer and is bounded before it is allocated.
package wire
