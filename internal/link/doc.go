// Package link carries frames over one WebSocket connection in service: a
// reader, a writer with a bounded queue, the heartbeat, and an end that lets the
// last frame arrive. Server and SDK use it alike. It knows frames, not what they
// mean; Ping and Pong are the only ones it keeps for itself.
package link
