package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "write testdata/vectors/frames.json")

const vectorFile = "../../testdata/vectors/frames.json"

// A vector is one frame in both encodings. Binary is a whole binary message,
// with the frame's length.
type vector struct {
	Name   string          `json:"name"`
	Binary string          `json:"binary"`
	JSON   json.RawMessage `json:"json"`
}

type vectors struct {
	Comment string     `json:"comment"`
	Good    []vector   `json:"good"`
	Bad     []badBytes `json:"bad"`
}

// badBytes is a message that every decoder must refuse.
type badBytes struct {
	Name   string `json:"name"`
	Binary string `json:"binary,omitempty"`
	JSON   string `json:"json,omitempty"`
}

func writeVectors(t *testing.T) {
	v := vectors{
		Comment: "Frames in both encodings, and messages to refuse. Binary is hex of a whole message: length and frame. " +
			"JSON values are compared by meaning.",
		Bad: []badBytes{
			{Name: "empty message", Binary: ""},
			{Name: "zero length", Binary: "00"},
			{Name: "length behind the end", Binary: "0342"},
			{Name: "length not minimal", Binary: "82004200"},
			{Name: "length over 64 bits", Binary: "ffffffffffffffffff7f4200"},
			{Name: "length over the limit", Binary: "81800a"},
			{Name: "frame cut inside a field", Binary: "024201"},
			{Name: "field number zero", Binary: "020000"},
			{Name: "string that is not UTF-8", Binary: "051a031201ff"},
			{Name: "good frame, then half of one", Binary: "0242000242"},
			{Name: "not an object", JSON: "[]"},
			{Name: "two frames", JSON: `{"ping":{}} {"ping":{}}`},
			{Name: "key twice", JSON: `{"lineOff":{"code":1,"code":2}}`},
			{Name: "two bodies", JSON: `{"ping":{},"pong":{}}`},
			{Name: "number out of range", JSON: `{"lineOff":{"code":4294967296}}`},
			{Name: "huge exponent", JSON: `{"received":{"offset":1e999}}`},
			{Name: "bytes that are not base64", JSON: `{"command":{"data":"%"}}`},
			{Name: "nested 17 deep", JSON: `{"later":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`},
		},
	}
	for _, s := range samples() {
		b, err := AppendBinary(nil, s.frame)
		if err != nil {
			t.Fatal(err)
		}
		j, err := EncodeJSON(s.frame)
		if err != nil {
			t.Fatal(err)
		}
		v.Good = append(v.Good, vector{s.name, hex.EncodeToString(b), j})
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("../../testdata/vectors", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	want := samples()
	if len(v.Good) != len(want) {
		t.Fatalf("%d good vectors, want %d", len(v.Good), len(want))
	}
	for i, g := range v.Good {
		msg := bytesOf(g.Binary)
		fromBinary, rest, err := NextBinary(msg)
		if err != nil || len(rest) != 0 || !proto.Equal(fromBinary, want[i].frame) {
			t.Errorf("%s: binary gives %v, %d bytes behind, %v", g.Name, fromBinary, len(rest), err)
		}
		fromJSON, err := DecodeJSON(g.JSON)
		if err != nil || !proto.Equal(fromJSON, want[i].frame) {
			t.Errorf("%s: JSON gives %v, %v", g.Name, fromJSON, err)
		}
		if got, err := AppendBinary(nil, want[i].frame); err != nil || !bytes.Equal(got, msg) {
			t.Errorf("%s: encoded as %x, %v, want %x", g.Name, got, err, msg)
		}
	}
	for _, b := range v.Bad {
		var err error
		if b.JSON != "" {
			_, err = DecodeJSON([]byte(b.JSON))
		} else {
			err = decodeAll(bytesOf(b.Binary))
		}
		if !errors.Is(err, ErrFraming) && !errors.Is(err, ErrContent) {
			t.Errorf("%s: %v, want a refusal", b.Name, err)
		}
	}
}

func decodeAll(msg []byte) error {
	for _, err := range Frames(msg) {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestEveryTruncationIsRefused(t *testing.T) {
	for _, s := range samples() {
		b, err := AppendBinary(nil, s.frame)
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if f, _, err := NextBinary(b[:n]); err == nil {
				t.Errorf("%s cut to %d of %d bytes: %v, want a refusal", s.name, n, len(b), f)
			}
		}
		j, err := EncodeJSON(s.frame)
		if err != nil {
			t.Fatal(err)
		}
		for n := range j {
			if f, err := DecodeJSON(j[:n]); err == nil {
				t.Errorf("%s cut to %q: %v, want a refusal", s.name, j[:n], f)
			}
		}
	}
}

func TestFramesShareAMessageAndNoMemory(t *testing.T) {
	var msg []byte
	for _, s := range samples() {
		var err error
		if msg, err = AppendBinary(msg, s.frame); err != nil {
			t.Fatal(err)
		}
	}
	var got []*Frame
	for f, err := range Frames(msg) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f)
	}
	clear(msg) // the reader uses its buffer again
	for i, s := range samples() {
		if !proto.Equal(got[i], s.frame) {
			t.Errorf("%s: got %v", s.name, got[i])
		}
	}
}

func TestTooLargeFramesAreNotSent(t *testing.T) {
	dst := []byte("before")
	tests := []struct {
		name  string
		frame *Frame
		want  error
	}{
		{"no body", &Frame{}, ErrEmpty},
		{"too large", &Frame{Body: &Frame_Command{&Command{Data: make([]byte, FrameBytes)}}}, ErrTooLarge},
		{"not UTF-8", &Frame{Body: &Frame_LineOff{&LineOff{Detail: "\xff"}}}, ErrContent},
	}
	for _, tt := range tests {
		for _, encode := range []func([]byte, *Frame) ([]byte, error){AppendBinary, AppendJSON} {
			if got, err := encode(dst, tt.frame); !errors.Is(err, tt.want) || string(got) != "before" {
				t.Errorf("%s: %q, %v, want %v and dst as it was", tt.name, got, err, tt.want)
			}
		}
	}
}

// The largest frames that the Check functions allow must fit.
func TestLargestFramesFit(t *testing.T) {
	big := func(n int) []byte { return make([]byte, n) }
	id := strings.Repeat("i", TransferBytes)
	user := strings.Repeat("点", UserChars)
	peer := &Peer{User: user, Instance: big(InstanceBytes)}
	for _, f := range []*Frame{
		{Body: &Frame_Command{&Command{Id: sampleID, Target: user, Source: peer, Data: big(CommandBytes), Meta: big(MetaBytes), Header: big(HeaderBytes)}}},
		{Body: &Frame_CommandAck{&CommandAck{Id: sampleID, Reply: big(ReplyBytes), Header: big(HeaderBytes), Detail: strings.Repeat("d", DetailBytes)}}},
		{Body: &Frame_Offer{&Offer{SendId: sampleID, Target: user, Source: peer, Name: strings.Repeat("n", NameBytes), Type: strings.Repeat("t", TypeBytes),
			Meta: big(MetaBytes), Header: big(HeaderBytes), Inline: big(InlineBytes), Transfer: id, Url: strings.Repeat("u", URLBytes), Ticket: strings.Repeat("t", TicketBytes)}}},
		{Body: &Frame_Hello{&Hello{Token: strings.Repeat("t", TokenBytes), Capabilities: strings.Split(strings.Repeat(strings.Repeat("c", CapabilityBytes)+",", Capabilities), ",")}}},
	} {
		b, err := AppendBinary(nil, f)
		if err != nil {
			t.Errorf("%T: %v", f.Body, err)
		}
		j, err := EncodeJSON(f)
		if err != nil {
			t.Errorf("%T: %v", f.Body, err)
		}
		if f.GetHello() != nil && max(len(b), len(j)) > LoginBytes {
			t.Errorf("the largest Hello has %d bytes, %d in JSON, over LoginBytes", len(b), len(j))
		}
	}
}

func TestAppendBinaryAllocatesNothing(t *testing.T) {
	f := samples()[4].frame
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { buf, _ = AppendBinary(buf[:0], f) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func FuzzBinary(f *testing.F) {
	for _, s := range samples() {
		b, _ := AppendBinary(nil, s.frame)
		f.Add(b)
	}
	f.Add(binary.AppendUvarint(nil, 1<<40))
	f.Fuzz(func(t *testing.T, msg []byte) {
		for frame, err := range Frames(msg) {
			if err != nil {
				return
			}
			// Whatever was decoded is checked without a panic, and comes back as it is.
			_, _ = CheckFromClient(frame), CheckFromServer(frame)
			if frame.Body == nil {
				continue
			}
			b, err := AppendBinary(nil, frame)
			if err != nil {
				t.Fatalf("encode %v: %v", frame, err)
			}
			again, rest, err := NextBinary(b)
			if err != nil || len(rest) != 0 || !proto.Equal(again, frame) {
				t.Fatalf("%v came back as %v, %v", frame, again, err)
			}
		}
	})
}

func FuzzJSON(f *testing.F) {
	for _, s := range samples() {
		b, _ := EncodeJSON(s.frame)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		frame, err := DecodeJSON(msg)
		if err != nil || frame.Body == nil {
			return
		}
		_, _ = CheckFromClient(frame), CheckFromServer(frame)
		b, err := EncodeJSON(frame)
		if errors.Is(err, ErrTooLarge) {
			return
		}
		if err != nil {
			t.Fatalf("encode %v: %v", frame, err)
		}
		if again, err := DecodeJSON(b); err != nil || !proto.Equal(again, frame) {
			t.Fatalf("%v came back as %v, %v", frame, again, err)
		}
	})
}
