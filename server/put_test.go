package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/dian-im/dian/internal/wire"
)

func TestPutSendsAFile(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	for _, size := range []int{0, 10, 2 << 20} {
		content := testContent(size)
		sum := sha256.Sum256(content)
		r := rt.request("PUT", "/v1/users/bob/files/a%2Fb%20c.txt", "alice", bytes.NewReader(content),
			"Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":", "Expect", "100-continue",
			"Content-Type", "text/plain; charset=utf-8", "Dian-Meta", "bWV0YQ==")
		if size == 0 {
			r.Body, r.ContentLength = nil, 0
		}
		a := rt.want(rt.do(r), 200)
		var got putResult
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			t.Fatal(err)
		}
		want := putResult{SendID: got.SendID, Receipt: "stored", Checked: "sha-256", Size: int64(size)}
		if got != want || wire.CheckSendID(got.SendID) != nil {
			t.Errorf("result = %+v, want %+v", got, want)
		}
		bob.mu.Lock()
		for _, p := range bob.parts {
			if p.offer.SendId == got.SendID && (!bytes.Equal(p.data, content) || p.offer.Name != "a/b c.txt" ||
				p.offer.Type != "text/plain" || string(p.offer.Meta) != "meta") {
				t.Errorf("receiver has %d bytes of %v", len(p.data), p.offer)
			}
		}
		bob.mu.Unlock()
	}
}

func TestPutRefusals(t *testing.T) {
	rt := newRelayTest(t, false, func(c *Config) { c.MaxFileBytes = 100 })
	rt.receiver("bob", placeA)
	body := func() io.Reader { return strings.NewReader("abc") }
	for _, c := range []struct {
		name, path string
		body       io.Reader
		headers    []string
		status     int
		code       string
	}{
		{"no length", "/v1/users/bob/files/x", io.NopCloser(body()), nil, 411, ""},
		{"nobody there", "/v1/users/carol/files/x", body(), []string{"Expect", "100-continue"}, 404, "603"},
		{"too large", "/v1/users/bob/files/x", strings.NewReader(strings.Repeat("x", 101)), nil, 413, "1405"},
		{"name", "/v1/users/bob/files/%FF", body(), nil, 400, ""},
		{"long name", "/v1/users/bob/files/" + strings.Repeat("x", 1025), body(), nil, 400, ""},
		{"digest", "/v1/users/bob/files/x", body(), []string{"Repr-Digest", "sha-256=:AA==:"}, 400, ""},
		{"wrong digest", "/v1/users/bob/files/x", body(), []string{"Repr-Digest", "sha-256=:" + strings.Repeat("A", 43) + "=:"}, 422, "1110"},
		{"meta", "/v1/users/bob/files/x", body(), []string{"Dian-Meta", "?"}, 400, ""},
		{"id", "/v1/users/bob/files/x", body(), []string{"Dian-Send-Id", "x"}, 404, "1104"},
		{"no token", "/v1/users/bob/files/x", body(), []string{"Authorization", ""}, 401, ""},
	} {
		a := rt.do(rt.request("PUT", c.path, "alice", c.body, c.headers...))
		if a.status != c.status || !strings.Contains(a.body, c.code) {
			t.Errorf("%s: %d %s %v, want %d %s", c.name, a.status, a.body, a.err, c.status, c.code)
		}
	}
}

func TestBrokenPut(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	content := testContent(100)
	put := func(id string) {
		r := rt.request("PUT", "/v1/users/bob/files/x", "alice", &brokenBody{Reader: bytes.NewReader(content[:50])})
		if id != "" {
			r.Header.Set("Dian-Send-Id", id)
		}
		r.ContentLength = 100
		rt.do(r)
	}
	state := func() (canceled, kept bool) {
		bob.mu.Lock()
		defer bob.mu.Unlock()
		for _, p := range bob.parts {
			canceled, kept = canceled || p.canceled, kept || !p.canceled && len(p.data) == 50
		}
		return
	}
	put("") // nobody can go on with it
	eventually(t, func() bool { canceled, _ := state(); return canceled })
	id := wire.NewSendID()
	put(id)
	eventually(t, func() bool { _, kept := state(); return kept })
	rt.want(rt.do(rt.request("PUT", "/v1/users/bob/files/x", "alice", bytes.NewReader(content), "Dian-Send-Id", id)), 200)
	rt.want(rt.do(rt.request("PUT", "/v1/users/bob/files/x", "alice", bytes.NewReader(content), "Dian-Send-Id", id)), 200)
	bob.mu.Lock()
	defer bob.mu.Unlock()
	for _, p := range bob.parts {
		if p.offer.SendId == id && !bytes.Equal(p.data, content) {
			t.Error("other content")
		}
	}
	if bob.verdicts != 1 {
		t.Errorf("%d verdicts, want 1", bob.verdicts)
	}
}
