//go:build !race

package server

const stackFactor = 1
