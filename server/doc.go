// Package server is the relay: an http.Handler that carries commands, buffers
// and files from one logged-in user to another and never looks into them.
//
// A program fills in a [Config] and hands it to New. [LoadConfig] reads the same
// Config from a YAML file, [DevConfig] is one for trying things out on one's own
// machine. Every field's zero value is a good default, except that there is no
// default app: somebody has to say whose tokens are believed.
//
// Who may do what is decided in one place. A token ([Mint] makes them) names its
// app, its user and the users that it may address and list; Config.Authorize can
// forbid more.
package server
