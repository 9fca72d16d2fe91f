package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHostileTextIsQuoted(t *testing.T) {
	for text, want := range map[string]string{
		"plain ü 点":                `"plain ü 点"`,
		"\x1b[2J\a\n":              `"\x1b[2J\a\n"`,
		"a\u202egpj.exe":           `"a\u202egpj.exe"`,
		"zero\u200bwidth\ufe0f":    `"zero\u200bwidth\ufe0f"`,
		"\u009b1m":                 `"\u009b1m"`,
		"broken \xff":              `"broken \xff"`,
		"blank \u2800\u3164\u115f": `"blank \u2800\u3164\u115f"`,
	} {
		if got := quote(text); got != want {
			t.Errorf("quote(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestEventsAreOneVisibleLine(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	con := newConsole(nil, out, out)
	con.json = true
	name := "<a>\n\u202e\u009b\u200b\U000e0041点\xff"
	con.tell(fileEvent{Event: "file", Name: name, Size: 1<<63 - 1})
	got, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if want := `"name":"<a>\n\u202e\u009b\u200b\udb40\udc41点`; !bytes.Contains(got, []byte(want)) || bytes.Count(got, []byte("\n")) != 1 {
		t.Errorf("event %s, want one line with %s", got, want)
	}
	var back fileEvent
	if err := json.Unmarshal(got, &back); err != nil || back.Name != strings.ToValidUTF8(name, "\ufffd") || back.Size != 1<<63-1 {
		t.Errorf("read back %+v, %v", back, err)
	}
}

func TestBenchContentIsTheSameHoweverItIsRead(t *testing.T) {
	p := pattern{100_003}
	whole, err := io.ReadAll(io.NewSectionReader(p, 0, p.size))
	if err != nil || int64(len(whole)) != p.size {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	for _, at := range []int64{0, 1, 7, 8, 4093, p.size - 1} {
		b := make([]byte, 777)
		n, err := p.ReadAt(b, at)
		if !bytes.Equal(b[:n], whole[at:at+int64(n)]) || n < len(b) != (err == io.EOF) {
			t.Errorf("ReadAt(%d) = %d, %v, or other bytes", at, n, err)
		}
	}
}

func TestSizesForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_951: "1.0 MB", 5_000_000_000: "5.0 GB", 1<<63 - 1: "9.2 EB",
	} {
		if got := sizeText(n); got != want {
			t.Errorf("sizeText(%d) = %s, want %s", n, got, want)
		}
	}
}
