package server

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// fullWriter takes so many bytes of a response and no more.
type fullWriter struct {
	*httptest.ResponseRecorder
	most int
}

var errFull = errors.New("full")

func (w fullWriter) Write(p []byte) (int, error) {
	if w.Body.Len()+len(p) > w.most {
		return 0, errFull
	}
	return w.ResponseRecorder.Write(p)
}

// What passes through a lane's small buffer is counted, as is what ended it.
func TestColdLaneCounts(t *testing.T) {
	content := testContent(100 << 10)
	for name, c := range map[string]struct {
		drop, n  int64
		takes    int // what the receiver takes
		stops    bool
		written  int64
		up, down error
	}{
		"whole":             {0, 100 << 10, 1 << 20, false, 100 << 10, nil, nil},
		"behind":            {20<<10 + 1, 79 << 10, 1 << 20, false, 79 << 10, nil, nil},
		"body too short":    {1 << 10, 100 << 10, 1 << 20, false, 99 << 10, io.EOF, nil},
		"drop too long":     {101 << 10, 1, 1 << 20, false, 0, io.EOF, nil},
		"receiver gone":     {0, 100 << 10, 40 << 10, false, 32 << 10, nil, errFull},
		"receiver replaced": {0, 101 << 10, 1 << 20, true, 100 << 10, nil, errStopped},
	} {
		t.Run(name, func(t *testing.T) {
			ts := &transfers{born: time.Now(), wide: newSeats(0)}
			tr := &transfer{ts: ts}
			w := fullWriter{httptest.NewRecorder(), c.takes}
			d := &downLane{w: w, control: http.NewResponseController(w)}
			u := &upLane{lane: lane{stopped: make(chan struct{})}, control: http.NewResponseController(w), r: httptest.NewRequest("PATCH", "/", bytes.NewReader(content))}
			var r ring
			r.init()
			if c.stops {
				r.stop()
			}
			got := tr.passCold(&r, u, d, &pace{t: tr, d: d}, c.drop, c.n)
			want := copied{min(c.drop, int64(len(content))), c.written, c.up, c.down}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if broken := c.down == errFull; u.interrupted.Load() != broken {
				t.Errorf("the body is given up: %t, want %t", !broken, broken)
			}
			if u.passed != c.written {
				t.Errorf("%d bytes are known to have passed, want %d", u.passed, c.written)
			}
			if !bytes.Equal(w.Body.Bytes(), content[got.dropped:got.dropped+got.written]) {
				t.Error("other content")
			}
		})
	}
}

// A lane whose body is through is not interrupted: that would cost its connection.
func TestThroughLaneKeepsItsConnection(t *testing.T) {
	for _, length := range []int64{10, -1} {
		r := httptest.NewRequest("PATCH", "/", bytes.NewReader(make([]byte, 10)))
		r.ContentLength = length
		w := httptest.NewRecorder()
		u := &upLane{r: r, control: http.NewResponseController(w)}
		if _, err := io.ReadFull(u.body(), make([]byte, 9)); err != nil {
			t.Fatal(err)
		}
		if u.through.Load() {
			t.Errorf("length %d: through before its last byte", length)
		}
		if _, err := io.ReadAll(u.body()); err != nil {
			t.Fatal(err)
		}
		if u.interrupt(); u.interrupted.Load() {
			t.Errorf("length %d: interrupted although it is through", length)
		}
	}
}
