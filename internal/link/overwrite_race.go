//go:build race

package link

// overwrite has what Handle got overwritten as soon as it returns: who keeps it is
// found by the tests under the race detector.
const overwrite = true
