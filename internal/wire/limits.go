package wire

// Sizes in bytes, limits inclusive, of docs/protocol.md. They hold on both
// sides; a server may set smaller ones and says so in Welcome.
const (
	CommandBytes = 64 << 10  // data of a Command
	ReplyBytes   = 64 << 10  // reply of a CommandAck or CommandResult
	BufferBytes  = 100 << 20 // size of a buffer
	InlineBytes  = 64 << 10  // content inside an Offer
	MetaBytes    = 4 << 10
	HeaderBytes  = 4 << 10
	NameBytes    = 1 << 10
	TypeBytes    = 255
	TokenBytes   = 8 << 10
	DetailBytes  = 512
	ClientBytes  = 128

	TransferBytes = 2 << 10 // a transfer's opaque id
	URLBytes      = 4 << 10 // a lane's path
	TicketBytes   = 512     // what a down-lane asks for

	UserChars = 128 // characters (runes) of a user id
	AppChars  = 64  // characters (runes) of an app id

	InstanceBytes   = 16
	Capabilities    = 32   // entries in Hello and Welcome
	CapabilityBytes = 64   // each of them
	PresenceUsers   = 1000 // names in one PresenceQuery or PresenceSubscribe
)

// What one read may cost.
const (
	FrameBytes   = 160 << 10 // one encoded binary frame
	MessageBytes = 288 << 10 // one WebSocket message, text too
	LoginBytes   = 16 << 10  // the only message before Welcome
	JSONDepth    = 16        // nesting of a text message
)

// The WebSocket subprotocols of version 1.
const (
	ProtoSubprotocol = "dian.v1.proto" // binary messages of length-delimited frames
	JSONSubprotocol  = "dian.v1.json"  // text messages of one frame each
)

// The digests of version 1.
const (
	DigestX3B    = "x3b"     // XXH3-128 over the XXH3-128 values of 8 MiB blocks; 16 bytes
	DigestSHA256 = "sha-256" // 32 bytes
)
