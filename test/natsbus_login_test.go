package test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/dian-im/dian/internal/bus/natsbus"
)

// natsKey makes a key of NATS and returns its public and its secret half.
func natsKey(t *testing.T, make func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string, seed []byte) {
	t.Helper()
	pair, err := make()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		t.Fatal(err)
	}
	if seed, err = pair.Seed(); err != nil {
		t.Fatal(err)
	}
	return pair, public, seed
}

func writeFile(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNATSTakesAnNKey(t *testing.T) {
	_, public, seed := natsKey(t, nkeys.CreateUser)
	s := startNATS(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	c := s.config()
	c.NKeySeedFile = filepath.Join(t.TempDir(), "$HOME ~.nk") // means what it says
	writeFile(t, c.NKeySeedFile, seed)
	c.URLs = []string{"nats://localhost:" + strconv.Itoa(s.options.Port)} // a name with more than one address
	joinNATS(t, c).Expect(toldUp)
}

// credentials are of a user who may do everything until a time.
func credentials(t *testing.T, account nkeys.KeyPair, until time.Time) []byte {
	t.Helper()
	_, public, seed := natsKey(t, nkeys.CreateUser)
	claims := jwt.NewUserClaims(public)
	claims.Expires = until.Unix()
	token, err := claims.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	file, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestNATSTakesCredentialsThatAreRenewed(t *testing.T) {
	operator, operatorKey, _ := natsKey(t, nkeys.CreateOperator)
	account, accountKey, _ := natsKey(t, nkeys.CreateAccount)
	accountToken, err := jwt.NewAccountClaims(accountKey).Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	accounts := new(server.MemAccResolver)
	if err := accounts.Store(accountKey, accountToken); err != nil {
		t.Fatal(err)
	}
	s := startNATS(t, func(o *server.Options) {
		o.TrustedKeys = []string{operatorKey}
		o.AccountResolver = accounts
	})
	var log logBook
	c := s.config()
	c.Logger = log.logger()
	c.CredentialsFile = filepath.Join(t.TempDir(), "$HOME ~.creds") // means what it says
	soon := credentials(t, account, time.Now().Add(4*time.Second))
	writeFile(t, c.CredentialsFile, soon)
	n := joinNATS(t, c)
	n.Expect(toldUp)
	n.Expect(toldDown) // they have expired
	log.waitFor(t, "level=ERROR", "authentication expired")
	before := s.logins(t)
	writeFile(t, c.CredentialsFile, credentials(t, account, time.Now().Add(time.Hour)))
	n.Expect(toldUp)
	if s.logins(t) == before {
		t.Error("it has not logged in again")
	}
	for line := range strings.Lines(string(soon)) {
		if len(line) > 40 && !strings.HasPrefix(line, "-") && strings.Contains(log.String(), strings.TrimSpace(line)) {
			t.Errorf("the log has what was in the file:\n%s", &log)
		}
	}
}

// A file without a JWT would go to the server as a whole, and with it the seed.
func TestSeedIsNotTakenForCredentialsOfNATS(t *testing.T) {
	_, _, seed := natsKey(t, nkeys.CreateUser)
	c := natsbus.Config{URLs: []string{"nats://127.0.0.1:1"}, CredentialsFile: filepath.Join(t.TempDir(), "seed")}
	writeFile(t, c.CredentialsFile, seed)
	if err := c.Check(); err == nil || !strings.Contains(err.Error(), "cluster.nats.credentials_file: there is no JWT") || strings.Contains(err.Error(), string(seed)) {
		t.Errorf("Check = %v, want that there is no JWT", err)
	}
}
