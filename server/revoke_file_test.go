package server

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var revokedAt = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)

func someRevocations() []Revocation {
	return []Revocation{
		{ID: "0123456789abcdef", App: "clinic", User: "alice", Created: revokedAt, Reason: "lost her phone <\"\n"},
		{ID: "1123456789abcdef", App: "clinic", User: "日本", IssuedBefore: revokedAt, Created: revokedAt, Expires: revokedAt.Add(time.Hour)},
		{ID: "2123456789abcdef", App: "shop", JTI: "an id\u202e", Created: revokedAt},
		{ID: "3123456789abcdef", App: "shop", SHA256: strings.Repeat("0f", 32), Created: revokedAt},
	}
}

func TestRevocationsSurviveARestart(t *testing.T) { // case 30
	path := filepath.Join(t.TempDir(), "revocations")
	v, err := openRevocations(path)
	if err != nil {
		t.Fatal(err)
	}
	var want []Revocation
	for _, r := range someRevocations() {
		kept, fresh, err := v.add(r, revokedAt)
		if err != nil || !fresh {
			t.Fatalf("add = %v %v", fresh, err)
		}
		want = append(want, kept)
	}
	if _, found, err := v.lift(want[1].ID, revokedAt); !found || err != nil {
		t.Fatalf("lift = %v %v", found, err)
	}
	want = append(want[:1], want[2:]...)
	again, err := openRevocations(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again.all(revokedAt)); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Errorf("files are left: %q", left)
	}
}

func TestDamagedRevocationsStopTheStart(t *testing.T) {
	good, err := encodeRevocations(someRevocations())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "revocations")
	start := func(data []byte) error {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := relayConfig()
		cfg.RevocationsFile = path
		srv, err := New(cfg)
		if err == nil {
			srv.Shutdown(t.Context())
		}
		return err
	}
	if err := start(good); err != nil {
		t.Fatal(err)
	}
	sum := func(text string) []byte {
		text = revocationsHead + text
		return fmt.Appendf(nil, "%ssha256 %x\n", text, sha256.Sum256([]byte(text)))
	}
	entry := `{"id":"0123456789abcdef","app":"a","user":"u","created":"2026-10-01T12:00:00Z"}` + "\n"
	bad := map[string][]byte{
		"empty":          {},
		"another format": []byte("dian-revocations 2\n"),
		"two lines":      sum(`{"id":"0123456789abcdef","app":"a","user":"u"` + "\n" + `,"created":"2026-10-01T12:00:00Z"}` + "\n"),
		"no JSON":        sum("hello\n"), "an unknown member": sum(`{"id":"0123456789abcdef","app":"a","user":"u","uesr":"x"}` + "\n"),
		"no line break": sum(strings.TrimSpace(entry)), "an id twice": sum(entry + entry), "no id": sum(strings.Replace(entry, "0123456789abcdef", "", 1)),
		"a bad user": sum(strings.Replace(entry, `"u"`, `"\u0000"`, 1)), "nobody": sum(strings.Replace(entry, `"u"`, `""`, 1)),
		"user and jti": sum(strings.Replace(entry, `"u"`, `"u","jti":"x"`, 1)), "a bad hash": sum(strings.Replace(entry, `"user":"u"`, `"sha256":"00"`, 1)),
		"jti with time": sum(strings.Replace(entry, `"user":"u"`, `"jti":"u","issuedBefore":"2026-10-01T12:00:00Z"`, 1)),
		"year 10000":    sum(strings.Replace(entry, `"u"`, `"u","expires":"9999-12-31T23:59:59-01:00"`, 1)),
	}
	for n := range len(good) { // cut off anywhere
		bad[fmt.Sprintf("cut at %d", n)] = good[:n]
		flipped := append([]byte{}, good...)
		flipped[n] ^= 1 // and one bit that is wrong anywhere
		bad[fmt.Sprintf("bit at %d", n)] = flipped
	}
	for name, data := range bad {
		err := start(data)
		if err == nil || !strings.Contains(err.Error(), "revocations_file: ") || !strings.Contains(err.Error(), "is damaged") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: New = %v", name, err)
		}
	}
	if left, err := os.ReadFile(path); err != nil || len(left) == 0 && len(bad["empty"]) != 0 {
		t.Error("the damaged file was replaced")
	}
}

func TestRevocationsFileIsMadeAtTheStartAndMissedLater(t *testing.T) {
	dir := t.TempDir()
	cfg := relayConfig()
	cfg.RevocationsFile = filepath.Join(dir, "no", "folder")
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "revocations_file: write") {
		t.Errorf("New = %v: a file that cannot be written is found on the day of need", err)
	}
	cfg.RevocationsFile = dir
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("New with a folder = %v", err)
	}
	cfg.RevocationsFile = filepath.Join(dir, "revocations")
	srv, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Shutdown(t.Context())
	if err := srv.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	if _, _, err := srv.revokeNow(Revocation{App: "app", User: "alice"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(cfg.RevocationsFile); err != nil {
		t.Fatal(err)
	}
	if err := srv.Reload(cfg); err == nil || !strings.Contains(err.Error(), "revocations_file") {
		t.Errorf("Reload without the file = %v", err)
	}
	if err := os.WriteFile(cfg.RevocationsFile, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := srv.Reload(cfg); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("Reload of a damaged file = %v", err)
	}
	if n := len(srv.revoked.all(time.Now())); n != 1 {
		t.Errorf("%d revocations after bad reloads, want the one", n)
	}
}

// TestRevocationIsNotLostToAReload that comes at the same time.
func TestRevocationIsNotLostToAReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "revocations")
	v, err := openRevocations(path)
	if err != nil {
		t.Fatal(err)
	}
	const n = 100
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			if _, _, err := v.add(Revocation{App: "a", User: strconv.Itoa(i)}, time.Now()); err != nil {
				t.Error(err)
			}
		}
	}()
	for reading := true; reading; {
		if err := v.reread(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			reading = false
		default:
		}
	}
	again, err := openRevocations(path)
	if err != nil || v.count(time.Now()) != n || again.count(time.Now()) != n {
		t.Errorf("%d are in force and %d in the file, want %d (%v)", v.count(time.Now()), again.count(time.Now()), n, err)
	}
}

// breakFile makes path impossible to write until the returned function is called.
func breakFile(t *testing.T, path string) (mend func()) {
	t.Helper()
	temp := path + ".new" // a folder that cannot be removed is in the way
	if err := os.MkdirAll(filepath.Join(temp, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	return func() { os.RemoveAll(temp) }
}

// TestRevocationThatCannotBeWrittenCountsAllTheSame, and a lift does not.
func TestRevocationThatCannotBeWrittenCountsAllTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "revocations")
	rt := newRelayTest(t, false, func(c *Config) { c.RevocationsFile = path })
	alice := rt.login("demo", "alice", 2, "")
	mend := breakFile(t, path)
	body := map[string]any{"app": "demo", "user": "alice"}
	var result RevokeResult
	if status, text := adminCall(t, rt.srv, "POST", "/admin/v1/revocations", body, &result); status != 201 || result.Kept || result.Ended != 1 || result.Problem == "" {
		t.Errorf("revoke = %d %s, want one that is in force and not kept", status, text)
	}
	if f, err := alice.tryNext(testWait, isLineOff); err != nil || f.GetLineOff().Code != 21 {
		t.Errorf("alice: %v %v", f, err)
	}
	if err := rt.srv.Reload(DevConfig()); err != nil { // the file does not have it; it counts on
		t.Fatal(err)
	}
	if !rt.srv.revoked.refuse(claims{App: "demo", User: "alice"}, time.Now()) {
		t.Error("a reload has lifted it")
	}
	mend()
	if status, text := adminCall(t, rt.srv, "POST", "/admin/v1/revocations", body, &result); status != 200 || !result.Kept {
		t.Errorf("the same again = %d %s, want it kept", status, text)
	}
	mend = breakFile(t, path)
	if status, text := adminCall(t, rt.srv, "DELETE", "/admin/v1/revocations/"+result.ID, nil, nil); status != 503 {
		t.Errorf("a lift that cannot be written = %d %s", status, text)
	}
	if !rt.srv.revoked.refuse(claims{App: "demo", User: "alice"}, time.Now()) {
		t.Error("it is lifted although a restart would bring it back")
	}
	mend()
	again, err := openRevocations(path)
	if err != nil || len(again.all(time.Now())) != 1 {
		t.Errorf("the file has %v (%v)", again, err)
	}
}

func TestRevocationIsDroppedADayAfterItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "revocations")
	v, err := openRevocations(path)
	if err != nil {
		t.Fatal(err)
	}
	token := Revocation{App: "a", JTI: "x", Expires: revokedAt.Add(time.Hour)}
	if _, _, err := v.add(token, revokedAt); err != nil {
		t.Fatal(err)
	}
	c := claims{App: "a", User: "u"}
	c.marks[1] = markOfJTI("x")
	count := func(now time.Time) int {
		if _, _, err := v.add(Revocation{App: "a", User: fmt.Sprint(now.Unix())}, now); err != nil {
			t.Fatal(err)
		}
		list, err := loadRevocations(path, false)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, r := range list {
			if r.JTI == "x" {
				n++
			}
		}
		return n
	}
	if got := count(revokedAt.Add(2 * time.Hour)); got != 1 {
		t.Error("dropped at its end: a clock that is set back would bring the token to life")
	}
	if !v.refuse(c, revokedAt.Add(30*time.Minute)) {
		t.Error("the clock was set back, and the token counts again")
	}
	if got := len(v.all(revokedAt.Add(2 * time.Hour))); got != 1 {
		t.Errorf("%d are listed, want what is in force alone", got)
	}
	if got := count(revokedAt.Add(26 * time.Hour)); got != 0 {
		t.Error("still in the file")
	}
}

func TestRevocationThatIsCoveredIsNotAdded(t *testing.T) {
	v, err := openRevocations("")
	if err != nil {
		t.Fatal(err)
	}
	all := Revocation{App: "a", User: "u"}
	early := Revocation{App: "a", User: "u", IssuedBefore: revokedAt}
	late := Revocation{App: "a", User: "u", IssuedBefore: revokedAt.Add(time.Hour)}
	short := Revocation{App: "a", User: "u", Expires: revokedAt.Add(time.Hour)}
	for i, c := range []struct {
		r     Revocation
		fresh bool
	}{
		{early, true}, {early, false}, {late, true}, {early, false}, {short, true}, {all, true}, {late, false}, {short, false},
		{Revocation{App: "b", User: "u"}, true}, {Revocation{App: "a", JTI: "u"}, true}, {Revocation{App: "a", JTI: "u"}, false},
	} {
		if _, fresh, err := v.add(c.r, revokedAt); fresh != c.fresh || err != nil {
			t.Errorf("%d: fresh = %v (%v), want %v", i, fresh, err, c.fresh)
		}
	}
}

func TestRevocationsAreBounded(t *testing.T) {
	v := &revocations{unsaved: map[string]bool{}}
	for i := range maxRevocations {
		v.list = append(v.list, Revocation{ID: fmt.Sprintf("%016x", i), App: "a", User: fmt.Sprint(i)})
	}
	if _, _, err := v.add(Revocation{App: "a", User: "one more"}, revokedAt); err != errTooManyRevocations {
		t.Errorf("add = %v", err)
	}
	v.list[7].Expires = revokedAt.Add(-25 * time.Hour)
	if _, _, err := v.add(Revocation{App: "a", User: "one more"}, revokedAt); err != nil {
		t.Errorf("add after one has ended = %v", err)
	}
}

// FuzzRevocationsFile: no file makes us panic, and what is read is written the same.
func FuzzRevocationsFile(f *testing.F) {
	good, err := encodeRevocations(someRevocations())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, true)
	f.Add(good[:strings.LastIndex(string(good), revocationsSum)], true)
	f.Add(good[:len(good)-10], false)
	f.Add([]byte(revocationsHead+"{\"id\":\"0123456789abcdef\",\"app\":\"a\",\"user\":\"u\",\"created\":\"2026-10-01T12:00:00+23:59\"}\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, sum bool) {
		if sum { // past the checksum, which nothing else would get
			data = fmt.Appendf(data, "sha256 %x\n", sha256.Sum256(data))
		}
		list, err := decodeRevocations(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %q", err)
			}
			return
		}
		again, err := encodeRevocations(list)
		if err != nil {
			t.Fatalf("cannot be written again: %v", err)
		}
		back, err := decodeRevocations(again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if diff := cmp.Diff(list, back); diff != "" {
			t.Errorf("(-read +written and read):\n%s", diff)
		}
		set := newRevocations(list)
		if len(set.users)+len(set.tokens) > len(list) {
			t.Error("more than there are")
		}
	})
}
