package natsbus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dian-im/dian/internal/bus"
)

const password = "s3cr3t"

// file writes a file that is none of what a Config names.
func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCheckNamesTheField(t *testing.T) {
	urls := func(u ...string) Config { return Config{URLs: u} }
	good := "nats://127.0.0.1:4222"
	junk := file(t, password)
	for _, test := range []struct {
		c    Config
		want string // begins the error; "" for none
	}{
		{urls(good), ""},
		{urls("tls://host", "nats://user:"+password+"@host:1", "nats://token@[::1]:4222/"), ""},
		{urls("ws://host/path?x=1", "wss://host:443"), ""},
		{urls(), "cluster.nats.urls: "},
		{urls(good, "host:4222"), "cluster.nats.urls[1]: "},
		{urls("user:" + password + "@host:4222"), "cluster.nats.urls[0]: "},
		{urls("nats://user:" + password + "@host:port"), "cluster.nats.urls[0]: "},
		{urls("nats://user:" + password + "@host:0"), "cluster.nats.urls[0]: the port"},
		{urls("nats://host:65536"), "cluster.nats.urls[0]: the port"},
		{urls("nats://:4222"), "cluster.nats.urls[0]: "},
		{urls(""), "cluster.nats.urls[0]: "},
		{urls("https://" + password + "@host"), "cluster.nats.urls[0]: begin it with"},
		{urls("nats://host/" + password), "cluster.nats.urls[0]: leave away"},
		{urls("ws://host", good), "cluster.nats.urls: all of them or none"},
		{Config{URLs: []string{good}, CredentialsFile: junk, NKeySeedFile: junk}, "cluster.nats: credentials_file and nkey_seed_file"},
		{Config{URLs: []string{"nats://" + password + "@host"}, NKeySeedFile: junk}, "cluster.nats.urls[0]: has a user or token"},
		{Config{URLs: []string{good}, CertFile: junk}, "cluster.nats: cert_file and key_file"},
		{Config{URLs: []string{good}, KeyFile: junk}, "cluster.nats: cert_file and key_file"},
		{Config{URLs: []string{good}, CredentialsFile: junk + "x"}, "cluster.nats.credentials_file: open "},
		{Config{URLs: []string{good}, CredentialsFile: junk}, "cluster.nats.credentials_file: there is no JWT"},
		{Config{URLs: []string{good}, CredentialsFile: file(t, "a.b.c")}, "cluster.nats.credentials_file: "},
		{Config{URLs: []string{good}, NKeySeedFile: junk + "x"}, "cluster.nats.nkey_seed_file: "},
		{Config{URLs: []string{good}, NKeySeedFile: junk}, "cluster.nats.nkey_seed_file: "},
		{Config{URLs: []string{good}, CAFile: junk + "x"}, "cluster.nats.ca_file: "},
		{Config{URLs: []string{good}, CAFile: junk}, "cluster.nats.ca_file: "},
		{Config{URLs: []string{good}, CertFile: junk, KeyFile: junk}, "cluster.nats.cert_file and key_file: "},
	} {
		err := test.c.Check()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)) {
			t.Errorf("Check of %q = %v, want %q", test.c.URLs, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("%v shows a secret", err)
		}
		if err == nil {
			continue
		}
		if b, err := Open(test.c, bus.Handler{}); err == nil {
			b.Close()
			t.Errorf("Open of %q: no error", test.c.URLs)
		}
	}
}

func TestConfigPrintsNoSecret(t *testing.T) {
	c := Config{URLs: []string{"nats://user:" + password + "@host"}}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%v %+v %#v %s %v", c, c, c, c, struct{ C Config }{c})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "c", c, "in", struct{ C Config }{c})
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "c", c, "in", struct{ C Config }{c})
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	if strings.Contains(out.String(), password) || strings.Contains(out.String(), "host") {
		t.Errorf("it prints %s", &out)
	}
}
