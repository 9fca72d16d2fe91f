package server

import (
	"encoding/base64"
	"encoding/binary"
	"errors"

	"github.com/google/uuid"

	"github.com/dian-im/dian/internal/wire"
)

// A transferID is what the opaque id of a transfer's URL says: all that a server
// needs to rebuild the transfer when it has forgotten everything.
//
// Anybody can make such an id. So nothing of it is believed but what the request
// may do anyway: a sender's token has to be of Source, and is asked again whether
// it may send to Target; a receiver is only ever asked by its session.
type transferID struct {
	App, Source, Target string
	Send                [16]byte // the sendID's bytes
	Kind                wire.Kind
	Size                int64
	Instance            string // 16 bytes: the receiving place that was asked
	HTTP                bool   // the sender is a mere HTTP client
	Digest              string // of an HTTP sender: SHA-256, 32 bytes, or empty
}

const (
	transferIDVersion = 1

	transferIDHTTP   = 1 << 0
	transferIDFile   = 1 << 1
	transferIDDigest = 1 << 2
	transferIDFlags  = transferIDHTTP | transferIDFile | transferIDDigest

	// transferIDFixed is the part of fixed length before the names.
	transferIDFixed = 2 + 16 + 8 + wire.InstanceBytes
)

var errTransferID = errors.New("not a transfer's id")

// sendID returns the sendID as text.
func (id *transferID) sendID() string { return uuid.UUID(id.Send).String() }

// digest returns the digest as a frame carries it, or nil.
func (id *transferID) digest() *wire.Digest {
	if id.Digest == "" {
		return nil
	}
	return &wire.Digest{Algorithm: wire.DigestSHA256, Value: []byte(id.Digest)}
}

// encode returns the id as text of the base64url alphabet. The same fields always
// give the same text.
func (id *transferID) encode() string {
	var flags byte
	if id.HTTP {
		flags |= transferIDHTTP
	}
	if id.Kind == wire.Kind_KIND_FILE {
		flags |= transferIDFile
	}
	if id.Digest != "" {
		flags |= transferIDDigest
	}
	b := make([]byte, 0, 256)
	b = append(b, transferIDVersion, flags)
	b = append(b, id.Send[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(id.Size))
	b = append(b, id.Instance...)
	b = append(b, id.Digest...)
	for _, name := range []string{id.App, id.Source, id.Target} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
		b = append(b, name...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeTransferID reads an id. It accepts exactly what encode makes.
func decodeTransferID(text string) (*transferID, error) {
	if len(text) > wire.TransferBytes {
		return nil, errTransferID
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < transferIDFixed || b[0] != transferIDVersion || b[1]&^transferIDFlags != 0 {
		return nil, errTransferID
	}
	flags := b[1]
	id := &transferID{
		Send:     [16]byte(b[2:18]),
		Size:     int64(binary.BigEndian.Uint64(b[18:26])),
		Instance: string(b[26:transferIDFixed]),
		Kind:     wire.Kind_KIND_BUFFER,
		HTTP:     flags&transferIDHTTP != 0,
	}
	if flags&transferIDFile != 0 {
		id.Kind = wire.Kind_KIND_FILE
	}
	b = b[transferIDFixed:]
	if flags&transferIDDigest != 0 {
		if len(b) < 32 {
			return nil, errTransferID
		}
		id.Digest, b = string(b[:32]), b[32:]
	}
	for _, name := range []*string{&id.App, &id.Source, &id.Target} {
		if len(b) < 2 {
			return nil, errTransferID
		}
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			return nil, errTransferID
		}
		*name, b = string(b[2:2+n]), b[2+n:]
	}
	if len(b) != 0 || id.Size < 0 || id.Digest != "" && !id.HTTP ||
		id.Kind == wire.Kind_KIND_BUFFER && id.Size > wire.BufferBytes ||
		wire.CheckApp(id.App) != nil || wire.CheckUser(id.Source) != nil || wire.CheckUser(id.Target) != nil {
		return nil, errTransferID
	}
	// base64 passes over line breaks even when it is strict.
	if id.encode() != text {
		return nil, errTransferID
	}
	return id, nil
}
