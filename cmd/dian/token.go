package main

import (
	"bytes"
	"slices"
	"time"

	"github.com/dian-im/dian/server"
)

// tokenCmd is `dian token`.
type tokenCmd struct {
	User       string        `required:"" placeholder:"USER" help:"Whose token."`
	App        string        `placeholder:"APP" help:"Of which app; the config's only one, or demo with --dev."`
	TTL        time.Duration `name:"ttl" default:"24h" placeholder:"DURATION" help:"How long it is valid (${default})."`
	Send       []string      `placeholder:"PATTERN,…" help:"Whom the user may address: patterns with *; everybody unless given, nobody if empty."`
	See        []string      `placeholder:"PATTERN,…" help:"Whose presence the user may read; nobody unless given."`
	Config     string        `type:"path" placeholder:"FILE" xor:"key" help:"The relay's config; it has the keys."`
	SecretFile string        `type:"path" placeholder:"FILE" xor:"key" help:"A file with an HS256 secret; its last line break is not part of it."`
	Dev        bool          `xor:"key" help:"The well-known secret of serve --dev."`
	Kid        string        `placeholder:"ID" help:"The id of the key to sign with."`
}

// Run prints a token.
func (c *tokenCmd) Run(con *console) error {
	app, key, err := c.key()
	if err != nil {
		return err
	}
	token, err := server.Mint(key, app, c.User, c.TTL, patterns(c.Send), patterns(c.See))
	if err != nil {
		return usage("%s", err)
	}
	con.say("%s", token)
	return nil
}

// patterns tells apart a flag that was not given (nil) and one given as "".
func patterns(list []string) []string {
	if len(list) == 1 && list[0] == "" {
		return []string{}
	}
	return list
}

// key returns the app and the key that the flags point to.
func (c *tokenCmd) key() (string, server.Key, error) {
	var apps []server.App
	switch {
	case c.SecretFile != "":
		if c.App == "" {
			return "", server.Key{}, usage("--secret-file does not say which app it is of; give --app")
		}
		secret, err := readSmall(c.SecretFile, 4<<10)
		if err != nil {
			return "", server.Key{}, usage("--secret-file: %s", err)
		}
		secret = bytes.TrimSuffix(bytes.TrimSuffix(secret, []byte("\n")), []byte("\r"))
		return c.App, server.Key{ID: c.Kid, Algorithm: server.HS256, Secret: server.NewSecret(secret)}, nil
	case c.Dev:
		apps = server.DevConfig().Apps
	case c.Config != "":
		config, err := server.LoadConfig(c.Config)
		if err != nil {
			return "", server.Key{}, usage("%s", err)
		}
		apps = config.Apps
	default:
		return "", server.Key{}, usage("nothing to sign with; give --config, --secret-file or --dev")
	}
	at := slices.IndexFunc(apps, func(a server.App) bool { return a.ID == c.App })
	switch {
	case c.App == "" && len(apps) == 1:
		at = 0
	case c.App == "":
		return "", server.Key{}, usage("the config has %d apps; say which with --app", len(apps))
	case at < 0:
		return "", server.Key{}, usage("the config has no app %s", quote(c.App))
	}
	for _, key := range apps[at].Keys {
		if (c.Kid == "" || key.ID == c.Kid) && (!key.Secret.IsZero() || key.PrivateKeyFile != "") {
			return apps[at].ID, key, nil
		}
	}
	if c.Kid != "" {
		return "", server.Key{}, usage("app %s has no key %s that can sign; it needs a secret or a private_key_file", quote(apps[at].ID), quote(c.Kid))
	}
	return "", server.Key{}, usage("app %s has no key that can sign; give one a secret or a private_key_file", quote(apps[at].ID))
}
