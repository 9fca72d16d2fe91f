package dian

import (
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
	"github.com/dian-im/dian/internal/wiretest"
)

// FuzzServerFrames is a hostile server's messages to a client that sends and receives.
// The client lives or its line is off; it holds little, dials nobody else, and Close
// returns.
func FuzzServerFrames(f *testing.F) {
	kinds := map[string][]byte{}
	for _, v := range wiretest.Variants(serverKnown()) {
		if v.Name == "plausible" {
			kinds[v.Kind], _ = wire.AppendBinary(nil, v.Frame)
			f.Add(kinds[v.Kind])
		}
	}
	for _, row := range [][]string{{"Offer", "Sync", "Finish", "Cancel"}, {"Offer", "Query", "Offer"}, {"Accepted", "Received", "Verdict"}, {"Command", "Command", "CommandResult"}} {
		var all []byte
		for _, kind := range row {
			all = append(all, kinds[kind]...)
		}
		f.Add(all)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 20_000 {
			return
		}
		scripts(t, func(t *testing.T, s *script) {
			var strangers atomic.Int64
			c, err := s.listening(dir, &strangers, WithHandler(everything()), WithResumeWindow(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			p := s.session()
			c.SendCmd("bob", []byte("x"))
			c.SendBuffer("bob", []byte("y"))
			n := 0
			for frame, err := range wire.Frames(data) {
				if err != nil || p.l.Send(frame) != nil {
					break
				}
				n++
			}
			synctest.Wait()
			c.in.mu.Lock()
			held := len(c.in.all)
			c.in.mu.Unlock()
			if held > n || strangers.Load() > 0 {
				t.Errorf("%d transfers are held after %d frames, %d strangers were dialled", held, n, strangers.Load())
			}
			start := time.Now()
			if c.Close(); time.Since(start) > 10*time.Second {
				t.Errorf("Close took %v", time.Since(start))
			}
		})
	})
}

// FuzzLaneURL: whatever a server says, its lanes are URLs of a host that it has named
// as its base, and never plain text behind TLS.
func FuzzLaneURL(f *testing.F) {
	f.Add("", "/v1/transfers/x")
	f.Add("https://lanes.example.com:8443/x", "//evil.example/x")
	f.Add("http://plain.example", "@evil.example/")
	f.Add("//user:secret@evil.example", "\\evil?x#y")
	n, err := newNetwork("https://relay.example.com/dian", &options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, base, path string) {
		text := n.laneURL(base, path)
		u, err := url.Parse(text)
		if err != nil {
			return // no request can be made of it
		}
		want := "relay.example.com"
		if b, err := n.base.Parse(base); err == nil && base != "" && b.Scheme == "https" && b.Host != "" {
			want = b.Host
		}
		if u.Scheme != "https" || u.Host != want || u.User != nil || !strings.HasPrefix(text, fmt.Sprintf("https://%s/", want)) {
			t.Errorf("laneURL(%q, %q) = %q", base, path, text)
		}
	})
}
