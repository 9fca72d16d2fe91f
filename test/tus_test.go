package test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// upload runs the unmodified tus-js-client.
func upload(t *testing.T, job map[string]any) *process {
	t.Helper()
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, nil, "node", "js/upload.mjs", string(text))
}

// delivered waits for one file at the listener, checks its sum, and that it
// stays the only one.
func delivered(t *testing.T, l *process, sum string) event {
	t.Helper()
	file := l.named("file")
	if got := sumOf(t, file.text("path")); got != sum {
		t.Errorf("received file has SHA-256 %s, want %s", got, sum)
	}
	if n := len(l.all("file")); n != 1 {
		t.Errorf("%d files were delivered, want 1", n)
	}
	return file
}

// succeeded waits for the end of an upload, which has to be its one success.
func succeeded(t *testing.T, up *process) {
	t.Helper()
	if status := up.wait(); status != 0 || len(up.all("success")) != 1 {
		t.Fatalf("tus-js-client ended with %d, success %d times, errors %v", status, len(up.all("success")), up.all("error"))
	}
}

// created counts the transfers that the client made.
func created(up *process) int {
	n := 0
	for _, e := range up.all("response") {
		if e.text("method") == "POST" && e.number("status") == http.StatusCreated {
			n++
		}
	}
	return n
}

func TestTusUploadsArrive(t *testing.T) {
	path, sum := randomFile(t, "photo.bin", 20<<20+17, 1)
	for name, job := range map[string]map[string]any{
		"whole file, buffer":   {"source": "buffer"},
		"small PATCHes":        {"source": "buffer", "chunkSize": 3 << 20},
		"stream":               {"source": "stream", "chunkSize": 5 << 20},
		"stream, tiny PATCHes": {"source": "stream", "chunkSize": 1 << 20},
		"with its digest":      {"source": "buffer", "metadata": map[string]string{"filename": "photo.bin", "digest": "sha-256:" + sum}},
	} {
		t.Run(name, func(t *testing.T) {
			r, dir := startRelay(t), t.TempDir()
			l := listen(t, r.url, "bob", dir)
			job["endpoint"], job["token"], job["path"] = r.url+"/v1/users/bob/transfers", token(t, "alice"), path
			up := upload(t, job)
			succeeded(t, up)
			delivered(t, l, sum)
			if n := created(up); n != 1 {
				t.Errorf("%d transfers were made, want 1", n)
			}
		})
	}
}

func TestTusEmptyFileWaitsForVerdict(t *testing.T) {
	path, sum := randomFile(t, "empty", 0, 0)
	r := startRelay(t)
	l := listen(t, r.url, "bob", t.TempDir())
	up := upload(t, map[string]any{"source": "buffer", "endpoint": r.url + "/v1/users/bob/transfers", "token": token(t, "alice"), "path": path})
	succeeded(t, up)
	delivered(t, l, sum)
}

func TestTusWrongDigestIsRefused(t *testing.T) {
	path, _ := randomFile(t, "photo.bin", 1<<20, 2)
	r, dir := startRelay(t), t.TempDir()
	listen(t, r.url, "bob", dir)
	up := upload(t, map[string]any{"source": "buffer", "endpoint": r.url + "/v1/users/bob/transfers", "token": token(t, "alice"), "path": path,
		"metadata": map[string]string{"filename": "photo.bin", "digest": "sha-256:" + strings.Repeat("00", 32)}})
	if status := up.wait(); status != 1 || up.named("error").number("code") != 1110 {
		t.Errorf("tus-js-client ended with %d and %v, want 1 and code 1110", status, up.all("error"))
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("the receiver has %q, want nothing", got)
	}
}

func TestTusToNobodyIsFinal(t *testing.T) {
	path, _ := randomFile(t, "photo.bin", 1<<20, 2)
	r := startRelay(t)
	up := upload(t, map[string]any{"source": "buffer", "endpoint": r.url + "/v1/users/nobody/transfers", "token": token(t, "alice"), "path": path})
	if status := up.wait(); status != 1 || up.named("error").number("code") != 603 {
		t.Errorf("tus-js-client ended with %d and %v, want 1 and code 603", status, up.all("error"))
	}
	if n := len(up.all("response")); n != 1 {
		t.Errorf("it asked %d times, want once: a final refusal is not retried", n)
	}
}

// midway waits until about the given share of the bytes has gone out.
func midway(t *testing.T, up *process, from int64) {
	t.Helper()
	up.expect(0, "progress", func(e event) bool { return e.text("event") == "progress" && e.number("sent") >= from })
}

func TestTusResumesAfterACut(t *testing.T) {
	path, sum := randomFile(t, "photo.bin", 48<<20, 3)
	for _, source := range []string{"buffer", "stream"} {
		t.Run(source, func(t *testing.T) {
			r := startRelay(t)
			l := listen(t, r.url, "bob", t.TempDir())
			p := startPipe(t, r.addr)
			p.limit(24 << 20) // bytes a second
			up := upload(t, map[string]any{"source": source, "chunkSize": 6 << 20, "endpoint": "http://" + p.addr + "/v1/users/bob/transfers", "token": token(t, "alice"), "path": path})
			midway(t, up, 8<<20)
			p.cut()
			midway(t, up, 30<<20)
			p.cut()
			p.limit(0)
			succeeded(t, up)
			delivered(t, l, sum)
			if n := created(up); n != 1 {
				t.Errorf("%d transfers were made, want 1", n)
			}
		})
	}
}

func TestTusResumesAfterAServerRestart(t *testing.T) {
	path, sum := randomFile(t, "photo.bin", 48<<20, 4)
	for _, source := range []string{"buffer", "stream"} {
		t.Run(source, func(t *testing.T) {
			r := startRelay(t)
			l := listen(t, r.url, "bob", t.TempDir())
			p := startPipe(t, r.addr)
			p.limit(24 << 20)
			up := upload(t, map[string]any{"source": source, "chunkSize": 6 << 20, "endpoint": "http://" + p.addr + "/v1/users/bob/transfers", "token": token(t, "alice"), "path": path,
				"retryDelays": []int{0, 500, 1000, 2000, 3000, 5000, 5000}})
			midway(t, up, 20<<20)
			r.kill()
			time.Sleep(300 * time.Millisecond)
			r.again()
			p.limit(0)
			succeeded(t, up)
			delivered(t, l, sum)
			if n := created(up); n != 1 {
				t.Errorf("%d transfers were made, want 1", n)
			}
		})
	}
}

func TestTusResumesWhenTheReceiverComesBack(t *testing.T) {
	path, sum := randomFile(t, "photo.bin", 48<<20, 5)
	for _, how := range []string{"line cut", "killed and started again"} {
		t.Run(how, func(t *testing.T) {
			r, dir := startRelay(t), t.TempDir()
			down := startPipe(t, r.addr) // the receiver's way to the relay
			l := listen(t, "http://"+down.addr, "bob", dir)
			down.limit(24 << 20)
			up := upload(t, map[string]any{"source": "buffer", "chunkSize": 6 << 20, "endpoint": r.url + "/v1/users/bob/transfers", "token": token(t, "alice"), "path": path,
				"retryDelays": []int{0, 500, 1000, 2000, 3000, 5000, 5000}})
			midway(t, up, 20<<20)
			if how == "line cut" {
				down.cut()
			} else {
				l.kill()
				l = listen(t, "http://"+down.addr, "bob", dir)
			}
			down.limit(0)
			succeeded(t, up)
			delivered(t, l, sum)
			if n := created(up); n != 1 {
				t.Errorf("%d transfers were made, want 1", n)
			}
		})
	}
}

func TestTusAbortInMidPatchLeavesNothing(t *testing.T) {
	path, _ := randomFile(t, "photo.bin", 48<<20, 6)
	r, dir := startRelay(t), t.TempDir()
	l := listen(t, r.url, "bob", dir)
	p := startPipe(t, r.addr)
	p.limit(16 << 20)
	up := upload(t, map[string]any{"source": "buffer", "endpoint": "http://" + p.addr + "/v1/users/bob/transfers", "token": token(t, "alice"), "path": path})
	midway(t, up, 8<<20)
	up.stdin.Write([]byte("abort\n"))
	if status := up.wait(); status != 3 || len(up.all("aborted")) != 1 {
		t.Errorf("abort ended with %d: %v", status, up.all("error"))
	}
	l.named("cancel")
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("the receiver has %q, want nothing", got)
	}
	if got := leftovers(t, dir); len(got) != 0 {
		t.Errorf("the receiver still holds %q", got)
	}
}
