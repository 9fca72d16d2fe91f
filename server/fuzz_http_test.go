package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// Fuzz targets of the HTTP routes. Mallory, who may send to everybody, asks on an
// island for what the fuzzer thinks of. Whatever that is: the answer is one that
// docs/protocol.md knows, with a problem document if it is an error; it tells nothing
// of the victims', whose work stands as it stood; and bob hears of it from mallory
// alone.

var routeStatuses = []int{200, 201, 204, 206, 400, 401, 403, 404, 405, 409, 410, 411, 412, 413, 415, 416, 422, 423, 503}

func onIsland(t *testing.T, f func(w *island)) {
	synctest.Test(t, func(t *testing.T) {
		w := newIsland(t)
		defer w.end()
		f(w)
		synctest.Wait()
		if n := w.r.counter("dian_panics_total"); n != "0" {
			t.Errorf("dian_panics_total = %s", n)
		}
	})
}

// mallory is who asks.
func (w *island) mallory() isolationActor {
	return isolationActor{name: "mallory", app: victimApp, user: "mallory", send: "*", see: "*", token: w.token("mallory")}
}

// header takes out what would be another line: requests in requests are net/http's.
func header(value string) string { return strings.NewReplacer("\r", "", "\n", "").Replace(value) }

// fill puts what is there into what the fuzzer has thought of.
func (w *island) fill(text string) string {
	return strings.NewReplacer("{session}", w.viaSession.Transfer, "{web}", w.viaHTTP.Transfer, "{send}", w.viaSession.SendId,
		"{websend}", w.viaHTTP.SendId, "{command}", w.pending.Id, "{ref}", strconv.FormatUint(w.pending.Ref, 10),
		"{token}", w.token("mallory"), "{ticket}", w.viaHTTP.Ticket).Replace(text)
}

// raw writes a request as it is and reads the answer; nil if there is none.
func (w *island) raw(method, path string, headers []string, body string) (*http.Response, string) {
	s := w.r.socket()
	s.conn.SetDeadline(time.Now().Add(5 * time.Second)) // a lane without end
	var text strings.Builder
	text.WriteString(method + " " + path + " HTTP/1.1\r\nHost: relay.example\r\nConnection: close\r\n")
	if method != http.MethodGet && method != http.MethodHead {
		text.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			text.WriteString(headers[i] + ": " + header(headers[i+1]) + "\r\n")
		}
	}
	s.write([]byte(text.String() + "\r\n" + body))
	resp, err := s.answer(method)
	if resp == nil {
		w.t.Fatalf("no answer: %v", err)
	}
	told, _ := readAll(resp)
	return resp, told
}

// answered wants an answer that may be.
func (w *island) answered(resp *http.Response, told, before string, a isolationActor) {
	w.t.Helper()
	synctest.Wait()
	if resp.StatusCode == http.StatusBadRequest && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		w.heard("fuzz", before, a) // net/http took it for no request
		return
	}
	if !slices.Contains(routeStatuses, resp.StatusCode) {
		w.t.Errorf("status %d", resp.StatusCode)
	}
	if resp.StatusCode >= 400 && resp.Request.Method != http.MethodHead {
		var doc problem
		err := json.NewDecoder(resp.Body).Decode(&doc)
		if err != nil || doc.Status != resp.StatusCode || doc.Title == "" || len(doc.Detail) > wire.DetailBytes || resp.Header.Get("Content-Type") != "application/problem+json" {
			w.t.Errorf("no problem document: %v %v %q", err, doc, told)
		}
	}
	w.secret("fuzz", told)
	w.heard("fuzz", before, a)
}

func FuzzCreate(f *testing.F) {
	f.Add("1.0.0", "10", "filename Zm9v,meta YmFy,kind YnVmZmVy", tusContentType, "0123456789", "bob")
	f.Add("1.0.0", "0", "digest c2hhLTI1NjowMA==,sendId e3NlbmR9", "", "", "bob")
	f.Add("1.0.0", "9223372036854775807", "name L2V0Yy9wYXNzd2Q=,type dGV4dC9odG1s,x", tusContentType+"; charset=x", "x", "alice")
	f.Add("1.0.0", "-1", "a b,a c", "", "", "nobody")
	f.Add("0.2.1", "1e3", ",", "multipart/form-data", "--", "..")
	f.Fuzz(func(t *testing.T, version, length, metadata, kind, body, target string) {
		if len(version)+len(length)+len(metadata)+len(kind)+len(body)+len(target) > 20_000 {
			return
		}
		onIsland(t, func(w *island) {
			a, before := w.mallory(), w.snapshot()
			resp, told := w.raw("POST", "/v1/users/"+escaped(target)+"/transfers", []string{"Authorization", "Bearer " + a.token, "Tus-Resumable", version,
				"Upload-Length", length, "Upload-Metadata", metadata, "Content-Type", kind}, body)
			w.answered(resp, told, before, a)
			if at := resp.Header.Get("Location"); at != "" && !strings.HasPrefix(at, lanePathPrefix) {
				t.Errorf("Location %q", at)
			}
		})
	})
}

// escaped is a path segment of any text.
func escaped(text string) string {
	var b strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&b, "%%%02X", text[i])
	}
	return b.String()
}

func FuzzPut(f *testing.F) {
	f.Add("bob", "photo.jpg", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:", "bWV0YQ==", "{send}", "image/jpeg", "12345")
	f.Add("bob", "../x\x00", "md5=:AA==:, sha-256=x", "*", "", "text/plain; charset=\"", "")
	f.Add("nobody", "a/b", "", "", "00000000-0000-4000-8000-000000000000", "", "x")
	f.Fuzz(func(t *testing.T, target, name, digest, meta, id, kind, body string) {
		if len(target)+len(name)+len(digest)+len(meta)+len(kind)+len(body) > 20_000 {
			return
		}
		onIsland(t, func(w *island) {
			a, before := w.mallory(), w.snapshot()
			resp, told := w.raw("PUT", "/v1/users/"+escaped(target)+"/files/"+escaped(name), []string{"Authorization", "Bearer " + a.token,
				"Repr-Digest", digest, "Dian-Meta", meta, "Dian-Send-Id", w.fill(id), "Content-Type", kind}, body)
			w.answered(resp, told, before, a)
		})
	})
}

func FuzzPostCommand(f *testing.F) {
	f.Add("bob", "{command}", "bWV0YQ==", "hello", "")
	f.Add("nobody", "x", "====", "", "DELETE")
	f.Add("b\u043eb", "00000000-0000-4000-8000-00000000000A", "", strings.Repeat("x", 65_537), "")
	f.Fuzz(func(t *testing.T, target, id, meta, body, override string) {
		if len(target)+len(id)+len(meta)+len(body)+len(override) > 100_000 {
			return
		}
		onIsland(t, func(w *island) {
			a, before := w.mallory(), w.snapshot()
			resp, told := w.raw("POST", "/v1/users/"+escaped(target)+"/commands", []string{"Authorization", "Bearer " + a.token,
				"Dian-Send-Id", w.fill(id), "Dian-Meta", meta, "X-HTTP-Method-Override", override}, body)
			w.answered(resp, told, before, a)
			if resp.StatusCode == http.StatusOK && (resp.Header.Get("Dian-Code") != "0" || target != "bob" || len(body) > wire.CommandBytes) {
				t.Errorf("%d %v for %q, %d bytes", resp.StatusCode, resp.Header, target, len(body))
			}
		})
	})
}

// FuzzTransferRoutes asks with any id, by any method, and as whoever the fuzzer likes.
func FuzzTransferRoutes(f *testing.F) {
	f.Add("PATCH", "{web}", "1.0.0", "3", tusContentType, "", "1234567", "0-0")
	f.Add("HEAD", "{session}", "1.0.0", "", "", "", "", "")
	f.Add("POST", "{session}", "1.0.0", "9223372036854775807", tusContentType, "PATCH", "x", "")
	f.Add("DELETE", "%2e%2e/{web}", "1.0.0", "", "", "", "", "")
	f.Add("OPTIONS", "{web}?x=1", "", "", "", "HEAD", "", "")
	methods := regexp.MustCompile(`^[A-Z]{1,10}$`)
	paths := regexp.MustCompile(`^[!-~]*$`)
	f.Fuzz(func(t *testing.T, method, id, version, offset, kind, override, body, forged string) {
		if len(id)+len(version)+len(offset)+len(kind)+len(override)+len(body) > 20_000 || !methods.MatchString(method) || method == "CONNECT" || !paths.MatchString(id) {
			return
		}
		onIsland(t, func(w *island) {
			a, before := w.mallory(), w.snapshot()
			path := w.fill(id)
			if what, err := decodeTransferID(w.viaHTTP.Transfer); err == nil && forged != "" { // one of mallory's own, as it seems
				what.Source, what.Size, what.Target = "mallory", int64(len(forged)), forged
				if _, err := decodeTransferID(what.encode()); err == nil {
					path = what.encode()
				}
			}
			resp, told := w.raw(method, lanePathPrefix+path, []string{"Authorization", "Bearer " + a.token, "Tus-Resumable", version,
				"Upload-Offset", offset, "Content-Type", kind, "X-HTTP-Method-Override", override}, body)
			w.answered(resp, told, before, a)
		})
	})
}

// FuzzOwnPatch is a sender's own transfer, with what no client sends.
func FuzzOwnPatch(f *testing.F) {
	f.Add("3", tusContentType, "1234567", "1.0.0")
	f.Add("10", tusContentType, "", "1.0.0")
	f.Add("03", tusContentType+";x=y", "1", "1.0.0")
	f.Add("99999999999999999999", "x", "12345678901", "1.0.0")
	f.Fuzz(func(t *testing.T, offset, kind, body, version string) {
		if len(offset)+len(kind)+len(body)+len(version) > 20_000 {
			return
		}
		onIsland(t, func(w *island) {
			resp, told := w.raw("PATCH", w.viaHTTP.Url, []string{"Authorization", "Bearer " + w.token("alice"), "Tus-Resumable", version,
				"Upload-Offset", offset, "Content-Type", kind}, body)
			if !slices.Contains(routeStatuses, resp.StatusCode) || resp.StatusCode == http.StatusNoContent { // bob has no lane: nothing can have arrived
				t.Errorf("%d %s", resp.StatusCode, told)
			}
			tr := w.r.srv.transfers.find(w.viaHTTP.Transfer)
			tr.mu.Lock()
			confirmed, relayed, ended := tr.m.Confirmed(), tr.m.Relayed(), tr.m.State().Ended()
			tr.mu.Unlock()
			if confirmed != islandFrom || relayed > islandSize || ended {
				t.Errorf("confirmed %d, relayed %d, ended %v", confirmed, relayed, ended)
			}
			w.goOn()
		})
	})
}

func FuzzDownLane(f *testing.F) {
	f.Add("Ticket {ticket}", "bytes=3-", "", "")
	f.Add("", "bytes=-1", "*", "ticket={ticket}")
	f.Add("Bearer {token}", "bytes=0-9", "", "ticket=%00")
	f.Add("ticket {ticket}", "bytes=9223372036854775808-", "", "")
	f.Add("Ticket {ticket}", "bytes=5-4,1-2", `"x"`, ";")
	f.Fuzz(func(t *testing.T, authorization, ranges, condition, query string) {
		if len(authorization)+len(ranges)+len(condition)+len(query) > 20_000 || strings.ContainsFunc(query, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return
		}
		onIsland(t, func(w *island) {
			resp, told := w.raw("GET", w.viaHTTP.Url+"?"+w.fill(query), []string{"Authorization", w.fill(authorization), "Range", ranges, "If-Range", condition}, "")
			synctest.Wait()
			switch status := resp.StatusCode; {
			case !slices.Contains(routeStatuses, status):
				t.Errorf("status %d", status)
			case status == http.StatusOK || status == http.StatusPartialContent:
				if !strings.Contains(authorization+query, "{ticket}") && !strings.Contains(authorization+query, w.viaHTTP.Ticket) {
					t.Errorf("%d without a ticket: %s", status, told)
				}
				n, part := resp.ContentLength, resp.Header.Get("Content-Range")
				var from, to, size int64
				if _, err := fmt.Sscanf(part, "bytes %d-%d/%d", &from, &to, &size); n < 0 || n > islandSize || (part == "") != (status == http.StatusOK) ||
					part == "" && n != islandSize || part != "" && (err != nil || size != islandSize || to >= size || to-from+1 != n) {
					t.Errorf("%d, %d bytes, %v", status, n, resp.Header)
				}
			default:
				w.secret("fuzz", strings.ReplaceAll(told, w.viaHTTP.Ticket, ""))
			}
			if strings.Contains(authorization+query, "{ticket}") {
				w.bob.told() // it was his lane
			}
			w.heard("fuzz", w.snapshot(), w.mallory())
		})
	})
}

func FuzzAuthorization(f *testing.F) {
	f.Add("Bearer {token}")
	f.Add("bEARER {token}, Basic x")
	f.Add("Bearer  {token}")
	f.Add("Bearer e30.e30.")
	f.Fuzz(func(t *testing.T, value string) {
		if len(value) > 20_000 {
			return
		}
		onIsland(t, func(w *island) {
			a, before := w.mallory(), w.snapshot()
			resp, told := w.raw("GET", "/v1/users/bob", []string{"Authorization", w.fill(value)}, "")
			w.answered(resp, told, before, a)
			scheme, token, _ := strings.Cut(strings.Trim(header(value), " \t"), " ")
			if good := strings.EqualFold(scheme, "Bearer") && token == "{token}"; (resp.StatusCode == http.StatusOK) != good {
				t.Errorf("%d for %q", resp.StatusCode, value)
			}
		})
	})
}

// FuzzPath asks for any path: there are no redirects, no pages of net/http's, and
// presence is told of the named user alone.
func FuzzPath(f *testing.F) {
	for _, path := range []string{"v1/users/bob", "v1/users/%62ob", "v1/users/..%2fbob", "v1//users", "../v1/users/bob?x#y", "v1/users/bob/", "metrics", "v1/users/%ff", "v1/session", "*"} {
		f.Add("GET", path)
	}
	f.Add("POST", "v1/users/bob/commands/")
	paths := regexp.MustCompile(`^[!-~]*$`)
	f.Fuzz(func(t *testing.T, method, path string) {
		if !slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"}, method) || len(path) > 10_000 || !paths.MatchString(path) || strings.Contains(path, "metrics") {
			return
		}
		onIsland(t, func(w *island) {
			a, before := w.mallory(), w.snapshot()
			resp, told := w.raw(method, "/"+path, []string{"Authorization", "Bearer " + a.token}, "")
			w.answered(resp, told, before, a)
		})
	})
}
