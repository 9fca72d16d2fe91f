package main

import (
	"net"
	"strings"
	"testing"

	"github.com/dian-im/dian/server"
)

func TestLANIsForDevMode(t *testing.T) {
	if _, err := (&serveCmd{LAN: true}).config(); err == nil || !strings.Contains(err.Error(), "--dev") {
		t.Errorf("--lan without --dev: %v, want an error that names --dev", err)
	}
	config, err := (&serveCmd{LAN: true, Dev: true}).config()
	if err != nil || config.Room == nil || config.Listen != ":7700" {
		t.Errorf("--dev --lan: room %v, listen %q, %v", config.Room != nil, config.Listen, err)
	}
	if config, err = (&serveCmd{Dev: true}).config(); err != nil || config.Room != nil || config.Listen != "127.0.0.1:7700" {
		t.Errorf("--dev: room %v, listen %q, %v", config.Room != nil, config.Listen, err)
	}
}

func TestQRCodeIsDrawnWithItsQuietZone(t *testing.T) {
	rows := []string{"101", "010", "111"}
	got := strings.Split(drawQR(rows, false), "\n")
	if len(got) != 4 || got[0] != "███████" {
		t.Fatalf("drawn as\n%s\nwant four lines, the first one light", strings.Join(got, "\n"))
	}
	// Read back what is dark.
	for y, row := range rows {
		for x, c := range row {
			cell := []rune(got[(y+2)/2])[x+2]
			dark := map[rune][2]bool{'█': {false, false}, '▀': {false, true}, '▄': {true, false}, ' ': {true, true}}[cell][(y+2)%2]
			if dark != (c == '1') {
				t.Errorf("module %d,%d: dark %v, want %c", x, y, dark, c)
			}
		}
	}
	if coloured := drawQR(rows, true); strings.Count(coloured, "\x1b[97;40m") != 4 || strings.Count(coloured, "\x1b[0m") != 4 {
		t.Errorf("colours do not end with their line: %q", coloured)
	}
}

func TestRoomURLs(t *testing.T) {
	at := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if got := server.RoomURLs(at("192.168.1.5:7700"), "http"); len(got) != 1 || got[0] != "http://192.168.1.5:7700" {
		t.Errorf("one address: %q", got)
	}
	if got := server.RoomURLs(at("127.0.0.1:7700"), "http"); len(got) != 0 {
		t.Errorf("a loopback address: %q, want none", got)
	}
	for _, url := range server.RoomURLs(at("[::]:7700"), "https") {
		if !strings.HasPrefix(url, "https://") || strings.Contains(url, "127.0.0.1") {
			t.Errorf("all addresses: %q", url)
		}
	}
}
