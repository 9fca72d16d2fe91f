package cluster

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian"
)

// request sends one to a node as a user and returns the answer.
func request(t *testing.T, n *node, user, method, path string, body io.Reader, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, n.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token(t, user))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return res, string(text)
}

// Mere HTTP clients reach a receiver through any node: POST a command, PUT a file, tus
// with each request at another node, and the questions about presence.
func TestHTTPAtAnyNode(t *testing.T) {
	t.Parallel()
	c, _ := onMem(t, 3)
	files := make(chan dian.FileData, 10)
	c.client(c.nodes[1], "bob", dian.WithAckHandled(), dian.WithHandler(dian.Handler{
		HandleCmd:      func(m dian.CmdData) ([]byte, error) { return append([]byte("re: "), m.Data...), nil },
		NotifyFileData: func(m dian.FileData) { files <- m },
	}))
	data := content(3 << 20)
	arrived := func(at string) {
		t.Helper()
		select {
		case f := <-files:
			if f.Size != int64(len(data)) || f.Source != "alice" {
				t.Errorf("%s: a file of %d bytes of %s", at, f.Size, f.Source)
			}
		case <-time.After(patience):
			t.Fatalf("%s: no file", at)
		}
	}
	for i, n := range c.nodes {
		at := n.name
		res, text := request(t, n, "alice", "POST", "/v1/users/bob/commands", strings.NewReader("hello"))
		if res.StatusCode != 200 || text != "re: hello" {
			t.Errorf("%s: POST = %d %q", at, res.StatusCode, text)
		}
		res, text = request(t, n, "alice", "POST", "/v1/users/nobody/commands", strings.NewReader("hello"))
		if res.StatusCode != 404 || !strings.Contains(text, `"code":603`) {
			t.Errorf("%s: POST to nobody = %d %q, want 603", at, res.StatusCode, text)
		}
		res, text = request(t, n, "alice", "PUT", "/v1/users/bob/files/x.bin", bytes.NewReader(data))
		if res.StatusCode != 200 || !strings.Contains(text, `"receipt":"stored"`) {
			t.Errorf("%s: PUT = %d %s", at, res.StatusCode, text)
		}
		arrived(at)
		res, text = request(t, n, "alice", "GET", "/v1/users", nil)
		if res.StatusCode != 200 || !strings.Contains(text, `"user":"bob"`) {
			t.Errorf("%s: GET users = %d %s", at, res.StatusCode, text)
		}
		res, text = request(t, n, "alice", "GET", "/v1/users/bob", nil)
		if res.StatusCode != 200 || !strings.Contains(text, `"status":1`) {
			t.Errorf("%s: GET bob = %d %s", at, res.StatusCode, text)
		}

		res, text = request(t, n, "alice", "POST", "/v1/users/bob/transfers", nil, "Tus-Resumable", "1.0.0",
			"Upload-Length", fmt.Sprint(len(data)), "Upload-Metadata", "filename "+base64.StdEncoding.EncodeToString([]byte("x.bin")))
		if res.StatusCode != 201 {
			t.Fatalf("%s: create = %d %s", at, res.StatusCode, text)
		}
		location := res.Header.Get("Location")
		for j := range 3 { // each piece at another node
			n := c.nodes[(i+j)%3]
			from, to := len(data)/3*j, len(data)/3*(j+1)
			if j == 2 {
				to = len(data)
			}
			if res, text = request(t, n, "alice", "HEAD", location, nil, "Tus-Resumable", "1.0.0"); res.Header.Get("Upload-Offset") != fmt.Sprint(from) {
				t.Fatalf("%s: HEAD %d = %d %s, offset %s", at, j, res.StatusCode, text, res.Header.Get("Upload-Offset"))
			}
			res, text = request(t, n, "alice", "PATCH", location, bytes.NewReader(data[from:to]), "Tus-Resumable", "1.0.0",
				"Upload-Offset", fmt.Sprint(from), "Content-Type", "application/offset+octet-stream")
			if res.StatusCode != 204 || res.Header.Get("Upload-Offset") != fmt.Sprint(to) {
				t.Fatalf("%s: PATCH %d = %d %s", at, j, res.StatusCode, text)
			}
		}
		arrived(at)
		if res, _ = request(t, c.nodes[(i+1)%3], "mallory", "HEAD", location, nil, "Tus-Resumable", "1.0.0"); res.StatusCode != 404 {
			t.Errorf("%s: HEAD by somebody else = %d, want 404", at, res.StatusCode)
		}
	}
	sum := 0.0
	for _, n := range c.nodes {
		sum += metric(t, n.url, "dian_cluster_requests_carried_total")
	}
	if sum == 0 {
		t.Error("no request was carried: the test did not test anything")
	}
}

// A page of an allowed origin may read the answer of a carried request: each header of
// ours is there once.
func TestCarriedAnswersHaveTheirHeadersOnce(t *testing.T) {
	t.Parallel()
	c, _ := onMem(t, 2)
	c.client(c.nodes[1], "bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(dian.CmdData) {}}))
	res, text := request(t, c.nodes[0], "alice", "POST", "/v1/users/bob/commands", strings.NewReader("x"), "Origin", c.nodes[0].url)
	if res.StatusCode != 200 {
		t.Fatalf("POST = %d %s", res.StatusCode, text)
	}
	for name, values := range res.Header {
		if len(values) != 1 && name != "Vary" {
			t.Errorf("%s comes %d times", name, len(values))
		}
	}
	if got := res.Header.Get("Access-Control-Allow-Origin"); got != c.nodes[0].url {
		t.Errorf("Access-Control-Allow-Origin = %q", got)
	}
	if metric(t, c.nodes[0].url, "dian_cluster_requests_carried_total") != 1 {
		t.Error("it was not carried")
	}
}
