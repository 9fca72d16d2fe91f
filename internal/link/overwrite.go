//go:build !race

package link

// overwrite has what Handle got overwritten as soon as it returns.
const overwrite = false
