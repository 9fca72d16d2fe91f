//go:build !linux

package server

const fewFilesServer = "DIAN_TEST_FEW_FILES"

func serveWithFewFiles() {}
