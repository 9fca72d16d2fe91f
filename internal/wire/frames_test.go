package wire

import "encoding/hex"

const sampleID = "01890a5d-ac96-774b-bcce-b302099a8057"

func bytesOf(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// samples are the frames of testdata/vectors/frames.json.
func samples() []sample {
	here := bytesOf("000102030405060708090a0b0c0d0e0f")
	return []sample{
		{"hello", &Frame{Body: &Frame_Hello{&Hello{Token: "a.b.c", Client: "dian/1.0", Role: Role_ROLE_LISTEN,
			Instance: here, LastEpoch: 1<<63 + 1, Capabilities: []string{"x", "y"}}}}},
		{"welcome", &Frame{Body: &Frame_Welcome{&Welcome{User: "点 alice@example.com", App: "demo", Epoch: 7, HeartbeatMs: 25000,
			Limits: &Limits{CommandBytes: 65536, FileBytes: 1<<63 - 1}, TokenExpiresMs: 1893456000000, LaneBase: "https://lane.example/"}}}},
		{"line off", &Frame{Body: &Frame_LineOff{&LineOff{Code: uint32(Kicked), Detail: "newer login"}}}},
		{"ping, empty", &Frame{Body: &Frame_Ping{&Ping{}}}},
		{"command", &Frame{Body: &Frame_Command{&Command{Id: sampleID, Target: "bob", Stream: 1<<64 - 1, Seq: 2, Floor: 1,
			Resent: true, Data: []byte{0, 0xff, 0x80, '"'}, Meta: []byte("m"), Header: []byte("h")}}}},
		{"command, delivered", &Frame{Body: &Frame_Command{&Command{Id: sampleID, Source: &Peer{User: "alice", Instance: here}, Ref: 300}}}},
		{"command ack, gap", &Frame{Body: &Frame_CommandAck{&CommandAck{Ref: 300, Id: sampleID,
			Outcome: CommandOutcome_COMMAND_OUTCOME_GAP, Next: 128}}}},
		{"command result", &Frame{Body: &Frame_CommandResult{&CommandResult{Id: sampleID, Outcome: CommandOutcome_COMMAND_OUTCOME_FINAL,
			Code: uint32(PeerOffline), Detail: "offline", Origin: Origin_ORIGIN_SERVER}}}},
		{"offer, inlined", &Frame{Body: &Frame_Offer{&Offer{SendId: sampleID, Target: "bob", Kind: Kind_KIND_FILE, Size: 3, Name: "a/../б.txt",
			Type: "text/plain", Inlined: true, Inline: []byte("abc"), Digest: &Digest{Algorithm: DigestX3B, Value: here}}}}},
		{"offer, delivered", &Frame{Body: &Frame_Offer{&Offer{SendId: sampleID, Source: &Peer{User: "alice"}, Kind: Kind_KIND_BUFFER,
			Size: BufferBytes, Transfer: "dGVzdA", Url: "/v1/transfers/dGVzdA", Ticket: "tk"}}}},
		{"answer, accept", &Frame{Body: &Frame_Answer{&Answer{Transfer: "dGVzdA", Decision: Decision_DECISION_ACCEPT,
			Offset: 1 << 53, Receipt: Receipt_RECEIPT_STORED}}}},
		{"received", &Frame{Body: &Frame_Received{&Received{Transfer: "dGVzdA", Offset: 1<<53 + 1}}}},
		{"verdict", &Frame{Body: &Frame_Verdict{&Verdict{SendId: sampleID, Transfer: "dGVzdA", Code: uint32(DigestMismatch),
			Detail: "bad", Origin: Origin_ORIGIN_PEER, LengthOnly: true}}}},
		{"standing", &Frame{Body: &Frame_Standing{&Standing{Transfer: "dGVzdA", SendId: sampleID,
			State: TransferState_TRANSFER_STATE_PARTIAL, Offset: 5, Size: 9}}}},
		{"presence", &Frame{Body: &Frame_PresenceChange{&PresenceChange{Users: []*Presence{{User: "bob", Status: 2, DoNotDisturb: -1}}}}}},
	}
}

type sample struct {
	name  string
	frame *Frame
}
