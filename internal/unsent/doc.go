// Package unsent bounds what the kernel takes of a connection before it can send it.
//
// What is under way to a fast peer far away is not bounded by that. But for a peer that
// does not read, and for one that is slower than who writes, the kernel would hold up to
// four megabytes, out of what all connections of the machine share: with a thousand of
// them it begins to throw away what arrives, for everybody, and those connections are
// slow for long afterwards (case 47).
package unsent

// Most is how much that is, in bytes.
const Most = 256 << 10
