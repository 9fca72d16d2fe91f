package cluster

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"
)

// A packet is
//
//	version  1 byte, 1
//	node     8 bytes, who sends it
//	number   8 bytes: packets of one node on one subject count from 1; 0: not counted
//	MAC      16 bytes: HMAC-SHA256 of subject, 0 and everything else, cut
//	messages each behind its length as a varint
//
// with numbers in network byte order.
const (
	packetVersion = 1
	macBytes      = 16
	macAt         = 1 + 8 + 8
)

// HeadBytes is how long a packet's head is.
const HeadBytes = macAt + macBytes

// MaxMessage is how long one message may be: a command or an inlined offer with all
// that may be in it, and room to spare.
const MaxMessage = 256 << 10

// MinSecret is how many bytes of a cluster's secret there have to be.
const MinSecret = 16

var (
	// ErrForged means that a packet was not made by a node of this cluster for this
	// subject.
	ErrForged = errors.New("cluster: the MAC does not fit")
	// ErrPacket means that a packet cannot be read.
	ErrPacket = errors.New("cluster: not a packet")
)

// A NodeID is a node's, random for each life of its process.
type NodeID uint64

// String returns it as 16 hexadecimal digits.
func (n NodeID) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// A Codec seals and opens the packets of one cluster. It is not safe for use by several
// goroutines at a time; Clone makes another one.
type Codec struct {
	prefix          string
	packet, subject [sha256.Size]byte // keys
	mac             hash.Hash
	sum             [sha256.Size]byte
}

// NewCodec returns the Codec of a cluster. The name, of letters, digits, - and _, keeps
// clusters on one bus apart; a secret of at least MinSecret bytes is what its nodes know
// each other by.
func NewCodec(name string, secret []byte) *Codec {
	c := &Codec{prefix: "dian." + name + "."}
	keys, err := hkdf.Key(sha256.New, secret, nil, "dian cluster 1 "+name, 2*sha256.Size)
	if err != nil {
		panic("cluster: " + err.Error()) // the length is ours
	}
	copy(c.packet[:], keys)
	copy(c.subject[:], keys[sha256.Size:])
	c.mac = hmac.New(sha256.New, c.packet[:])
	return c
}

// Clone returns another Codec of the same cluster.
func (c *Codec) Clone() *Codec {
	d := *c
	d.mac = hmac.New(sha256.New, c.packet[:])
	return &d
}

// All is the subject that every node of the cluster subscribes to.
func (c *Codec) All() string { return c.prefix + "all" }

// Node is the subject of one node.
func (c *Codec) Node(n NodeID) string { return c.prefix + "node." + n.String() }

// User is the subject of whoever has a user's session. It shows neither app nor user,
// and no character of them gets into it (case 20).
func (c *Codec) User(p Place) string {
	mac := hmac.New(sha256.New, c.subject[:])
	_, _ = io.WriteString(mac, p.App)
	_, _ = mac.Write([]byte{0}) // in no app's id
	_, _ = io.WriteString(mac, p.User)
	return c.prefix + "user." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// Begin appends the room for a packet's head to dst.
func Begin(dst []byte) []byte { return append(dst, make([]byte, HeadBytes)...) }

// Append appends a message to a packet that Begin has begun.
func Append(dst []byte, m proto.Message) ([]byte, error) {
	size := proto.Size(m)
	if size == 0 || size > MaxMessage {
		return dst, fmt.Errorf("cluster: a message of %d bytes", size)
	}
	out := binary.AppendUvarint(dst, uint64(size))
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(out, m)
	if err != nil {
		return dst, fmt.Errorf("cluster: %w", err)
	}
	return out, nil
}

// Seal fills in the head of a packet for a subject.
func (c *Codec) Seal(packet []byte, subject string, node NodeID, number uint64) {
	packet[0] = packetVersion
	binary.BigEndian.PutUint64(packet[1:], uint64(node))
	binary.BigEndian.PutUint64(packet[9:], number)
	copy(packet[macAt:HeadBytes], c.sign(packet, subject))
}

func (c *Codec) sign(packet []byte, subject string) []byte {
	c.mac.Reset()
	_, _ = io.WriteString(c.mac, subject)
	_, _ = c.mac.Write([]byte{0})
	_, _ = c.mac.Write(packet[:macAt])
	_, _ = c.mac.Write(packet[HeadBytes:])
	return c.mac.Sum(c.sum[:0])[:macBytes]
}

// Open checks a packet that came to a subject and returns who made it, its number, and
// its messages, for Next. Errors: ErrPacket, ErrForged.
func (c *Codec) Open(packet []byte, subject string) (node NodeID, number uint64, messages []byte, err error) {
	if len(packet) <= HeadBytes || packet[0] != packetVersion {
		return 0, 0, nil, ErrPacket
	}
	if subtle.ConstantTimeCompare(c.sign(packet, subject), packet[macAt:HeadBytes]) != 1 {
		return 0, 0, nil, ErrForged
	}
	return NodeID(binary.BigEndian.Uint64(packet[1:])), binary.BigEndian.Uint64(packet[9:]), packet[HeadBytes:], nil
}

// Next decodes the first of the messages into m, which shares no memory with them, and
// returns the others. The error is ErrPacket.
func Next(messages []byte, m proto.Message) (rest []byte, err error) {
	size, n := binary.Uvarint(messages)
	if n <= 0 || size > MaxMessage || size > uint64(len(messages)-n) {
		return nil, ErrPacket
	}
	end := n + int(size)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(messages[n:end], m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPacket, err)
	}
	return messages[end:], nil
}
