package test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// A socketStep is one thing that a WebSocket client does.
type socketStep struct {
	Do     string   `json:"do"` // send, ping, expect, close, closed
	Text   bool     `json:"text,omitempty"`
	Parts  []string `json:"parts,omitempty"` // fragments of the message, in hexadecimal
	Ping   string   `json:"ping,omitempty"`  // sent between them
	Data   string   `json:"data,omitempty"`  // of a ping
	Code   int      `json:"code,omitempty"`  // of a close; 0: without a status
	Reason string   `json:"reason,omitempty"`
}

// A socketJob is what a client has to do, from its handshake on.
type socketJob struct {
	Name      string       `json:"name"`
	URL       string       `json:"url"`
	Protocols []string     `json:"protocols"`
	Steps     []socketStep `json:"steps"`
}

// A sight is what a client saw.
type sight struct {
	Kind   string `json:"kind"` // open, refused, message, pong, closed, nothing
	Text   bool   `json:"text"`
	Data   string `json:"data"` // in hexadecimal; of open: the subprotocol
	Code   int    `json:"code"`
	Reason string `json:"reason"` // of open: the extensions
}

// A socketClient runs a job and tells what it saw.
type socketClient func(t *testing.T, jobs []socketJob) map[string][]sight

var socketClients = map[string]socketClient{
	"gorilla": eachJob(gorillaJob), "coder": eachJob(coderJob), "npm ws": npmJobs,
}

func eachJob(run func(ctx context.Context, job socketJob) []sight) socketClient {
	return func(t *testing.T, jobs []socketJob) map[string][]sight {
		all := map[string][]sight{}
		for _, job := range jobs {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			all[job.Name] = run(ctx, job)
			cancel()
		}
		return all
	}
}

func npmJobs(t *testing.T, jobs []socketJob) map[string][]sight {
	t.Helper()
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	node := exec.CommandContext(t.Context(), "node", "js/session.mjs")
	node.Stdin = bytes.NewReader(in)
	var stderr strings.Builder
	node.Stderr = &stderr
	out, err := node.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, stderr.String())
	}
	all := map[string][]sight{}
	for line := range bytes.Lines(out) {
		var told struct {
			Name string
			Seen []sight
		}
		if err := json.Unmarshal(line, &told); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all[told.Name] = told.Seen
	}
	return all
}

func unhex(text string) []byte {
	b, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return b
}

// taker hands out what a reader saw, in order of its kind.
type taker struct {
	ctx     context.Context
	c       chan sight
	waiting []sight
}

func (k *taker) take(kind string) sight {
	for {
		for i, s := range k.waiting {
			if s.Kind == kind || s.Kind == "closed" {
				k.waiting = append(k.waiting[:i], k.waiting[i+1:]...)
				return s
			}
		}
		select {
		case s := <-k.c:
			k.waiting = append(k.waiting, s)
		case <-k.ctx.Done():
			return sight{Kind: "nothing"}
		}
	}
}

func gorillaJob(ctx context.Context, job socketJob) []sight {
	dialer := gorilla.Dialer{Subprotocols: job.Protocols, EnableCompression: true}
	// gorilla fragments a message that is longer than its buffer.
	for _, s := range job.Steps {
		if len(s.Parts) > 1 {
			dialer.WriteBufferSize = len(s.Parts[0]) / 2
		}
	}
	conn, response, err := dialer.DialContext(ctx, job.URL, nil)
	if err != nil {
		return refused(response)
	}
	defer conn.Close()
	conn.EnableWriteCompression(false)
	k := &taker{ctx: ctx, c: make(chan sight, 100)}
	conn.SetPongHandler(func(data string) error {
		k.c <- sight{Kind: "pong", Data: hex.EncodeToString([]byte(data))}
		return nil
	})
	conn.SetCloseHandler(func(int, string) error { return nil })
	go func() {
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil {
				end := sight{Kind: "closed", Code: 1006}
				if c, ok := errors.AsType[*gorilla.CloseError](err); ok {
					end.Code, end.Reason = c.Code, c.Text
				}
				k.c <- end
				return
			}
			k.c <- sight{Kind: "message", Text: kind == gorilla.TextMessage, Data: hex.EncodeToString(data)}
		}
	}()
	seen := []sight{{Kind: "open", Data: conn.Subprotocol(), Reason: response.Header.Get("Sec-WebSocket-Extensions")}}
	soon := func() time.Time { return time.Now().Add(patience) }
	for _, s := range job.Steps {
		switch s.Do {
		case "send":
			kind := gorilla.BinaryMessage
			if s.Text {
				kind = gorilla.TextMessage
			}
			w, err := conn.NextWriter(kind)
			if err != nil {
				continue
			}
			for i, part := range s.Parts {
				w.Write(unhex(part))
				if s.Ping != "" && i < len(s.Parts)-1 {
					conn.WriteControl(gorilla.PingMessage, unhex(s.Ping), soon())
				}
			}
			w.Close()
		case "ping":
			conn.WriteControl(gorilla.PingMessage, unhex(s.Data), soon())
			seen = append(seen, k.take("pong"))
		case "expect":
			seen = append(seen, k.take("message"))
		case "close":
			var body []byte
			if s.Code != 0 {
				body = gorilla.FormatCloseMessage(s.Code, s.Reason)
			}
			conn.WriteControl(gorilla.CloseMessage, body, soon())
			seen = append(seen, k.take("closed"))
		case "closed":
			seen = append(seen, k.take("closed"))
		}
	}
	return seen
}

// refused is the sight of a handshake that did not succeed.
func refused(response *http.Response) []sight {
	if response == nil {
		return []sight{{Kind: "nothing"}}
	}
	return []sight{{Kind: "refused", Code: response.StatusCode}}
}

func coderJob(ctx context.Context, job socketJob) []sight {
	k := &taker{ctx: ctx, c: make(chan sight, 100)}
	conn, response, err := coder.Dial(ctx, job.URL, &coder.DialOptions{
		Subprotocols: job.Protocols, CompressionMode: coder.CompressionContextTakeover,
		OnPongReceived: func(_ context.Context, data []byte) { k.c <- sight{Kind: "pong", Data: hex.EncodeToString(data)} },
	})
	if err != nil {
		return refused(response)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 20)
	closed := func(err error) sight {
		if c, ok := errors.AsType[coder.CloseError](err); ok {
			return sight{Kind: "closed", Code: int(c.Code), Reason: c.Reason}
		}
		return sight{Kind: "closed", Code: 1006}
	}
	go func() {
		for {
			kind, data, err := conn.Read(ctx)
			if err != nil {
				k.c <- closed(err)
				return
			}
			k.c <- sight{Kind: "message", Text: kind == coder.MessageText, Data: hex.EncodeToString(data)}
		}
	}()
	seen := []sight{{Kind: "open", Data: conn.Subprotocol(), Reason: response.Header.Get("Sec-WebSocket-Extensions")}}
	for _, s := range job.Steps {
		switch s.Do {
		case "send":
			kind := coder.MessageBinary
			if s.Text {
				kind = coder.MessageText
			}
			if len(s.Parts) == 1 { // one frame
				conn.Write(ctx, kind, unhex(s.Parts[0]))
				continue
			}
			w, err := conn.Writer(ctx, kind)
			if err != nil {
				continue
			}
			for i, part := range s.Parts {
				w.Write(unhex(part))
				if s.Ping != "" && i < len(s.Parts)-1 {
					conn.Ping(ctx)
				}
			}
			w.Close()
		case "ping":
			conn.Ping(ctx) // it chooses the data itself
			pong := k.take("pong")
			pong.Data = s.Data
			seen = append(seen, pong)
		case "expect":
			seen = append(seen, k.take("message"))
		case "close":
			code := coder.StatusCode(s.Code)
			if s.Code == 0 {
				code = coder.StatusNoStatusRcvd
			}
			err := conn.Close(code, s.Reason)
			end := k.take("closed")
			if err == nil { // the server's close had the same status
				end = sight{Kind: "closed", Code: s.Code}
			} else if end.Code == 1006 {
				end = closed(err)
			}
			seen = append(seen, end)
		case "closed":
			seen = append(seen, k.take("closed"))
		}
	}
	return seen
}
