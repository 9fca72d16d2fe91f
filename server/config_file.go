package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxConfigBytes bounds the config file.
const maxConfigBytes = 1 << 20

// configFile is the file form of Config; docs/configuration.md explains the keys.
type configFile struct {
	Listen        string  `yaml:"listen"`
	MetricsListen string  `yaml:"metrics_listen"`
	TLS           tlsFile `yaml:"tls"`

	NoPage    bool     `yaml:"no_page"`
	PublicURL string   `yaml:"public_url"`
	Origins   []string `yaml:"origins"`
	AnyOrigin bool     `yaml:"any_origin"`

	Heartbeat     duration `yaml:"heartbeat"`
	LoginWait     duration `yaml:"login_wait"`
	ResumeWindow  duration `yaml:"resume_window"`
	OfferWait     duration `yaml:"offer_wait"`
	HTTPOfferWait duration `yaml:"http_offer_wait"`
	CommandWait   duration `yaml:"command_wait"`
	ShutdownGrace duration `yaml:"shutdown_grace"`

	MaxFileBytes   byteSize   `yaml:"max_file_bytes"`
	Limits         limitsFile `yaml:"limits"`
	TrustedProxies []string   `yaml:"trusted_proxies"`
	ProxyProtocol  bool       `yaml:"proxy_protocol"`

	Audit auditFile `yaml:"audit"`
	Admin adminFile `yaml:",inline"`

	Cluster clusterFile `yaml:"cluster"`

	Apps []appFile `yaml:"apps"`
}

type tlsFile struct {
	Cert     string `yaml:"cert"`
	Key      string `yaml:"key"`
	ClientCA string `yaml:"client_ca"`
}

type appFile struct {
	ID           string        `yaml:"id"`
	Issuer       string        `yaml:"issuer"`
	MaxFileBytes byteSize      `yaml:"max_file_bytes"`
	Limits       appLimitsFile `yaml:"limits"`
	Keys         []keyFile     `yaml:"keys"`
}

type keyFile struct {
	ID             string     `yaml:"id"`
	Algorithm      string     `yaml:"algorithm"`
	Secret         secretText `yaml:"secret"`
	SecretFile     string     `yaml:"secret_file"`
	SecretEnv      string     `yaml:"secret_env"`
	PublicKey      string     `yaml:"public_key"`
	PublicKeyFile  string     `yaml:"public_key_file"`
	JWKSFile       string     `yaml:"jwks_file"`
	PrivateKeyFile string     `yaml:"private_key_file"`
}

// LoadConfig reads a Config from the YAML file at path, if path is not empty,
// and then from the environment, whose DIAN_ variables count more
// (docs/configuration.md lists both). File names in the file are relative to its
// folder. An unknown key or a value of the wrong kind is an error that names
// place and remedy and does not repeat a secret. The result is not checked yet,
// so that a program can change it: New does that, or Check.
func LoadConfig(path string) (Config, error) {
	src := configSource{dir: "", env: os.LookupEnv, read: readKeyFile}
	if path == "" {
		return src.parse(nil)
	}
	data, err := readSmallFile(path, maxConfigBytes)
	if err != nil {
		return Config{}, err
	}
	src.dir = filepath.Dir(path)
	cfg, err := src.parse(data)
	if err != nil {
		return Config{}, fmt.Errorf("config %q: %w", path, err)
	}
	return cfg, nil
}

// configSource is where a config file's indirections lead.
type configSource struct {
	dir  string // of the config file
	env  func(string) (string, bool)
	read func(path string) ([]byte, error)
}

// parse makes a Config of a file's content and the environment.
func (s configSource) parse(data []byte) (Config, error) {
	var file configFile
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, plainYAML(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("a second document after ---; keep one")
	}
	cfg, err := s.config(file)
	if err != nil {
		return Config{}, err
	}
	return cfg, s.environment(file, &cfg)
}

// config turns the file form into a Config and reads the secrets it points to.
func (s configSource) config(f configFile) (Config, error) {
	cfg := f.settings()
	cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.TLS.ClientCAFile = s.path(f.TLS.Cert), s.path(f.TLS.Key), s.path(f.TLS.ClientCA)
	for _, name := range cfg.recordFiles() {
		*name = s.path(*name)
	}
	for i, a := range f.Apps {
		app := App{ID: a.ID, Issuer: a.Issuer, MaxFileBytes: int64(a.MaxFileBytes), Limits: a.Limits.limits()}
		for j, k := range a.Keys {
			key, err := s.key(k)
			if err != nil {
				return Config{}, fmt.Errorf("apps[%d].keys[%d]: %w", i, j, err)
			}
			app.Keys = append(app.Keys, key)
		}
		cfg.Apps = append(cfg.Apps, app)
	}
	return cfg, nil
}

// settings copies what needs nothing from outside.
func (f configFile) settings() Config {
	return Config{
		Audit: f.Audit.settings(), Admin: f.Admin.settings(), RevocationsFile: f.Admin.RevocationsFile,
		Cluster: f.Cluster.settings(),
		Listen:  f.Listen, MetricsListen: f.MetricsListen,
		TLS:    TLS{CertFile: f.TLS.Cert, KeyFile: f.TLS.Key, ClientCAFile: f.TLS.ClientCA},
		NoPage: f.NoPage, PublicURL: f.PublicURL, Origins: f.Origins, AnyOrigin: f.AnyOrigin,
		Heartbeat: time.Duration(f.Heartbeat), LoginWait: time.Duration(f.LoginWait),
		ResumeWindow: time.Duration(f.ResumeWindow), OfferWait: time.Duration(f.OfferWait),
		HTTPOfferWait: time.Duration(f.HTTPOfferWait), CommandWait: time.Duration(f.CommandWait),
		ShutdownGrace: time.Duration(f.ShutdownGrace),
		MaxFileBytes:  int64(f.MaxFileBytes), Limits: f.Limits.limits(),
		TrustedProxies: f.TrustedProxies, ProxyProtocol: f.ProxyProtocol,
	}
}

// path makes a file name of the config file relative to its folder.
func (s configSource) path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.dir, name)
}

// key reads one key of the file.
func (s configSource) key(k keyFile) (Key, error) {
	key := Key{
		ID: k.ID, Algorithm: Algorithm(k.Algorithm), Secret: k.Secret.Secret,
		PublicKeyFile: s.path(k.PublicKeyFile), JWKSFile: s.path(k.JWKSFile), PrivateKeyFile: s.path(k.PrivateKeyFile),
	}
	given := 0
	for _, there := range []bool{!k.Secret.IsZero(), k.SecretFile != "", k.SecretEnv != ""} {
		if there {
			given++
		}
	}
	if given > 1 {
		return Key{}, errors.New("give only one of secret, secret_file and secret_env")
	}
	if k.SecretFile != "" {
		secret, err := s.secretFile(s.path(k.SecretFile))
		if err != nil {
			return Key{}, fmt.Errorf("secret_file: %w", err)
		}
		key.Secret = secret
	}
	if k.SecretEnv != "" {
		value, _ := s.env(k.SecretEnv)
		if value == "" {
			return Key{}, errors.New("secret_env: the environment variable of that name is not set; set it, or correct the name")
		}
		key.Secret = NewSecret([]byte(value))
	}
	if k.PublicKey != "" {
		public, err := parsePublicKey([]byte(k.PublicKey))
		if err != nil {
			return Key{}, fmt.Errorf("public_key: %w", err)
		}
		key.PublicKey = public
	}
	return key, nil
}

// secretFile reads a secret without the line break that editors put at its end.
func (s configSource) secretFile(path string) (Secret, error) {
	data, err := s.read(path)
	if err != nil {
		return Secret{}, err
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 {
		return Secret{}, fmt.Errorf("read %q: empty; put the secret there", path)
	}
	return NewSecret(data), nil
}

// environment lets DIAN_ variables replace single settings of file, and describe
// one app if the file has none.
func (s configSource) environment(file configFile, cfg *Config) error {
	apps, tls, was := cfg.Apps, cfg.TLS, *cfg
	if err := s.overlay("DIAN_", reflect.ValueOf(&file).Elem()); err != nil {
		return err
	}
	*cfg = file.settings()
	cfg.Apps = apps
	for _, f := range []struct {
		variable string
		field    *string
		was      string
	}{
		{"DIAN_TLS_CERT", &cfg.TLS.CertFile, tls.CertFile},
		{"DIAN_TLS_KEY", &cfg.TLS.KeyFile, tls.KeyFile},
		{"DIAN_TLS_CLIENT_CA", &cfg.TLS.ClientCAFile, tls.ClientCAFile},
	} {
		if value, _ := s.env(f.variable); value == "" {
			*f.field = f.was // relative to the file, not to the working folder
		}
	}
	old := was.recordFiles()
	for variable, field := range cfg.recordFiles() {
		if value, _ := s.env(variable); value == "" {
			*field = *old[variable]
		}
	}

	secret, _ := s.env("DIAN_SECRET")
	secretFile, _ := s.env("DIAN_SECRET_FILE")
	if secret == "" && secretFile == "" || len(cfg.Apps) > 0 {
		return nil
	}
	key := Key{Algorithm: HS256, Secret: NewSecret([]byte(secret))}
	if secretFile != "" {
		if secret != "" {
			return errors.New("DIAN_SECRET: give it or DIAN_SECRET_FILE, not both")
		}
		var err error
		if key.Secret, err = s.secretFile(secretFile); err != nil {
			return fmt.Errorf("DIAN_SECRET_FILE: %w", err)
		}
	}
	id, _ := s.env("DIAN_APP")
	if id == "" {
		return errors.New("DIAN_APP: not set; it names the app that DIAN_SECRET is for")
	}
	cfg.Apps = []App{{ID: id, Keys: []Key{key}}}
	return nil
}

// overlay sets each field of a file struct from the variable of its key's name;
// an empty variable counts as absent. A list is written with commas.
func (s configSource) overlay(prefix string, into reflect.Value) error {
	for i := range into.NumField() {
		name := prefix + strings.ToUpper(into.Type().Field(i).Tag.Get("yaml"))
		field := into.Field(i)
		switch to := field.Addr().Interface().(type) {
		case *[]appFile:
			continue
		case *tlsFile, *auditFile, *clusterFile, *clusterTLSFile, *natsFile, *limitsFile, *limitFile:
			if err := s.overlay(name+"_", field); err != nil {
				return err
			}
			continue
		case *adminFile: // inline
			if err := s.overlay(prefix, field); err != nil {
				return err
			}
			continue
		case *string:
			if value, _ := s.env(name); value != "" {
				*to = value
			}
			continue
		case *[]string:
			if value, _ := s.env(name); value != "" {
				*to = strings.Split(value, ",")
				for j := range *to {
					(*to)[j] = strings.TrimSpace((*to)[j])
				}
			}
			continue
		}
		if value, _ := s.env(name); value != "" {
			node := yaml.Node{Kind: yaml.ScalarNode, Value: value}
			if err := node.Decode(field.Addr().Interface()); err != nil {
				return fmt.Errorf("%s: %s", name, strings.TrimPrefix(plainYAML(err).Error(), "line 0: "))
			}
		}
	}
	return nil
}

// duration is a time.Duration written as 9s or 2m.
type duration time.Duration

// UnmarshalYAML reads a duration.
func (d *duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		return wrongValue(n, "not a duration; write it like 9s, 2m or 1h30m")
	}
	*d = duration(v)
	return nil
}

// byteSize is a number of bytes, written as 1000 or with a unit, as 4 MiB.
type byteSize int64

// UnmarshalYAML reads a number of bytes.
func (b *byteSize) UnmarshalYAML(n *yaml.Node) error {
	text, shift := n.Value, 0
	for unit, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40} {
		if rest, ok := strings.CutSuffix(text, unit); ok {
			text, shift = strings.TrimRight(rest, " "), bits
			break
		}
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if n.Kind != yaml.ScalarNode || err != nil || v < 0 || v > (1<<63-1)>>shift {
		return wrongValue(n, "not a number of bytes; write it like 65536, 100 MiB or 5GiB")
	}
	*b = byteSize(v << shift)
	return nil
}

// secretText is a Secret in the file, as the text that it is.
type secretText struct{ Secret }

// UnmarshalYAML reads a secret, also one that looks like a number.
func (s *secretText) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!binary" {
		return wrongValue(n, "a secret must be a text; use secret_file for other bytes")
	}
	s.Secret = NewSecret([]byte(n.Value))
	return nil
}

// wrongValue is an error that plainYAML and yaml understand.
func wrongValue(n *yaml.Node, what string) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %s", n.Line, what)}}
}

// What yaml's own errors look like. Those of values quote the beginning of the
// value, which may be a secret in the wrong place.
var (
	unknownField = regexp.MustCompile(`^(line \d+): field (.*) not found in type [\w.]+$`)
	wrongType    = regexp.MustCompile(`(?s)^(line \d+): cannot unmarshal .* into (\S+)$`)
	sameKey      = regexp.MustCompile(`^(line \d+): mapping key (".*") already defined at (line \d+)$`)
	syntaxLine   = regexp.MustCompile(`line \d+`)
)

// plainYAML says in our words what is wrong with a file, without its values.
func plainYAML(err error) error {
	types, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		if line := syntaxLine.FindString(err.Error()); line != "" {
			return fmt.Errorf("%s: not YAML; look for wrong indentation or a missing quote near it", line)
		}
		return errors.New("not YAML; quote texts that begin with * & ! or %")
	}
	texts := make([]string, len(types.Errors))
	for i, text := range types.Errors {
		switch {
		case unknownField.MatchString(text):
			m := unknownField.FindStringSubmatch(text)
			text = fmt.Sprintf("%s: unknown key %.40q; see docs/configuration.md for the keys", m[1], m[2])
		case wrongType.MatchString(text):
			m := wrongType.FindStringSubmatch(text)
			text = m[1] + ": wrong kind of value; " + wanted(m[2])
		case sameKey.MatchString(text):
			m := sameKey.FindStringSubmatch(text)
			text = fmt.Sprintf("%s: the key %.40s is there already, in %s; keep one", m[1], m[2], m[3])
		case !strings.HasPrefix(text, "line "):
			text = "a value of the wrong kind"
		}
		texts[i] = text
	}
	return errors.New(strings.Join(texts, "\n"))
}

// wanted describes a Go type to somebody who writes YAML.
func wanted(goType string) string {
	switch {
	case goType == "int":
		return "write a whole number"
	case goType == "bool":
		return "write true or false"
	case goType == "string":
		return "write a text"
	case strings.HasPrefix(goType, "[]"):
		return "write a list, one - for each entry"
	default:
		return "write keys and values below it, indented"
	}
}
