package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fromDocs returns the settings that docs/operations.md gives for a proxy, with
// its two addresses replaced.
func fromDocs(t *testing.T, language, listen, relay string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatalf("docs/operations.md has no settings in %s", language)
	}
	text := strings.ReplaceAll(string(block[1]), "127.0.0.1:7700", relay)
	for _, old := range []string{"127.0.0.1:8080", "listen 8080", ":8080"} {
		text = strings.ReplaceAll(text, old, map[string]string{"127.0.0.1:8080": listen, "listen 8080": "listen " + listen, ":8080": "http://" + listen}[old])
	}
	return text
}

// startProxy runs nginx, caddy or haproxy with the settings of the docs.
func startProxy(t *testing.T, name, relay string) string {
	t.Helper()
	listen, dir := freeAddress(t), t.TempDir()
	write := func(file, text string) string {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program, err := exec.LookPath(name)
	if err != nil {
		program = "/usr/sbin/" + name
	}
	switch name {
	case "nginx":
		path := write("nginx.conf", "daemon off;\nerror_log stderr;\npid "+dir+"/pid;\nevents {}\nhttp {\naccess_log off;\nclient_body_temp_path "+dir+"/b;\nproxy_temp_path "+dir+"/p;\nfastcgi_temp_path "+dir+"/f;\nuwsgi_temp_path "+dir+"/u;\nscgi_temp_path "+dir+"/s;\n"+fromDocs(t, "nginx", listen, relay)+"}\n")
		p := start(t, nil, program, "-c", path, "-e", "stderr", "-p", dir)
		// nginx's worker outlives a killed master: end both in good order.
		t.Cleanup(func() { p.cmd.Process.Signal(os.Interrupt); p.wait() })
	case "caddy":
		path := write("Caddyfile", "{\nadmin off\nauto_https off\n}\n"+fromDocs(t, "caddy", listen, relay))
		start(t, []string{"HOME=" + dir}, program, "run", "--adapter", "caddyfile", "--config", path)
	case "haproxy":
		path := write("haproxy.cfg", fromDocs(t, "haproxy", listen, relay))
		start(t, nil, program, "-db", "-f", path)
	}
	waitListening(t, listen)
	return "http://" + listen
}

// TestProxySettingsOfTheDocsCarryEverything sends all three kinds, and curl's
// one-shot file, through each proxy with the settings that we publish.
func TestProxySettingsOfTheDocsCarryEverything(t *testing.T) {
	path, sum := randomFile(t, "scan.bin", 80<<20+3, 11)
	for _, name := range []string{"nginx", "caddy", "haproxy"} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t)
			url := startProxy(t, name, r.addr)
			l := listen(t, url, "bob", t.TempDir())
			for _, args := range [][]string{
				{"cmd", "bob", "hello"},
				{"buffer", "bob", "real_test.go"},
				{"send", "bob", path},
			} {
				out, err := exec.Command(dian, append([]string{args[0], "--server", url, "--user", "alice"}, args[1:]...)...).CombinedOutput()
				if err != nil {
					t.Fatalf("dian %s: %v\n%s", args[0], err, out)
				}
			}
			l.named("cmd")
			l.named("buffer")
			delivered(t, l, sum)
			out, err := exec.Command("curl", "-sS", "--fail-with-body", "-H", "Authorization: Bearer "+token(t, "alice"), "-T", path, url+"/v1/users/bob/files/").CombinedOutput()
			if err != nil {
				t.Fatalf("curl: %v\n%s", err, out)
			}
			second, _ := l.expect(0, "the second file", func(e event) bool { return e.text("event") == "file" && strings.HasSuffix(e.text("path"), " (1).bin") })
			if got := sumOf(t, second.text("path")); got != sum {
				t.Errorf("by curl: SHA-256 %s, want %s", got, sum)
			}
		})
	}
}
