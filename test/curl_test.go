package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// curl runs curl with alice's token and returns its output and exit status.
func curl(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command("curl", append([]string{"-sS", "--fail-with-body", "-H", "Authorization: Bearer " + token(t, "alice")}, args...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run()
	if errs.Len() > 0 {
		t.Logf("curl: %s", errs.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func problemCode(t *testing.T, body string) int {
	t.Helper()
	var p struct{ Code int }
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("not a problem document: %q", body)
	}
	return p.Code
}

func TestCurlSendsAFile(t *testing.T) {
	path, sum := randomFile(t, "photo of us.jpg", 30<<20+1, 21)
	r, dir := startRelay(t), t.TempDir()
	l := listen(t, r.url, "bob", dir)
	out, status := curl(t, "-T", path, r.url+"/v1/users/bob/files/")
	if status != 0 {
		t.Fatalf("curl ended with %d: %s", status, out)
	}
	var result struct {
		Code             int
		Receipt, Checked string
		Size             int64
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil || result.Code != 0 || result.Receipt != "stored" || result.Checked != "length" || result.Size != 30<<20+1 {
		t.Errorf("the answer is %s (%v)", out, err)
	}
	file := delivered(t, l, sum)
	if got := filepath.Base(file.text("path")); got != "photo of us.jpg" {
		t.Errorf("the file is called %q", got)
	}
}

func TestCurlSendsACommand(t *testing.T) {
	r := startRelay(t)
	l := listen(t, r.url, "bob", t.TempDir())
	if out, status := curl(t, "--data-binary", "open the door", r.url+"/v1/users/bob/commands"); status != 0 {
		t.Fatalf("curl ended with %d: %s", status, out)
	}
	if got := l.named("cmd").text("text"); got != "open the door" {
		t.Errorf("bob got %q", got)
	}
	id := "01890a5d-ac96-774b-bcce-b302099a8057"
	for range 3 { // the same id is delivered once
		if out, status := curl(t, "-H", "Dian-Send-Id: "+id, "--data-binary", "once", r.url+"/v1/users/bob/commands"); status != 0 {
			t.Fatalf("curl ended with %d: %s", status, out)
		}
	}
	curl(t, "--data-binary", "last", r.url+"/v1/users/bob/commands")
	l.expect(0, "the last command", func(e event) bool { return e.text("text") == "last" })
	if n := len(l.all("cmd")); n != 3 {
		t.Errorf("%d commands were delivered, want 3: %v", n, l.all("cmd"))
	}
}

func TestCurlIsToldWhatIsWrong(t *testing.T) {
	r := startRelay(t)
	path, _ := randomFile(t, "x.bin", 4<<20, 22)
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 65537), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
	}{
		{"file to nobody", []string{"-T", path, r.url + "/v1/users/nobody/files/"}, 603},
		{"command to nobody", []string{"-d", "x", r.url + "/v1/users/nobody/commands"}, 603},
		{"command too large", []string{"--data-binary", "@" + big, r.url + "/v1/users/nobody/commands"}, 1100},
		{"malformed target", []string{"-d", "x", r.url + "/v1/users/%00/commands"}, 1102},
		{"name of 1,025 bytes", []string{"-T", path, r.url + "/v1/users/bob/files/" + strings.Repeat("n", 1025)}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, status := curl(t, c.args...)
			if status != 22 { // curl's status for an HTTP error
				t.Errorf("curl ended with %d, want 22", status)
			}
			if got := problemCode(t, out); got != c.code {
				t.Errorf("code %d, want %d: %s", got, c.code, out)
			}
		})
	}
}
