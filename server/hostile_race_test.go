//go:build race

package server

// The race detector makes stacks larger.
const stackFactor = 1.5
