//go:build !unix

package dian

const openNonblock = 0
