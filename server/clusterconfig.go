package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/dian-im/dian/internal/bus"
	nodes "github.com/dian-im/dian/internal/cluster"
)

// Cluster joins this server with others into one relay: users connect to any of them
// and reach everybody (docs/cluster.md). The zero value stands alone.
type Cluster struct {
	// Name keeps clusters on one bus apart: letters, digits, - and _, at most 64.
	// Default "main".
	Name string

	// Secret is what the nodes of a cluster know each other by, the same for all of
	// them, at least 16 bytes. In dev mode there is one that everybody knows.
	Secret Secret

	// SecretFile is a file with the secret, instead of it.
	SecretFile string

	// Listen is the host:port that the other nodes' lanes come to, for them alone.
	// Default ":7701"; in dev mode a free port of 127.0.0.1.
	Listen string

	// URL is where the other nodes reach Listen, "http://10.0.0.5:7701". Default: the
	// address from which this node reaches the bus.
	URL string

	// TLS is for lanes between nodes. Without it they are not encrypted there.
	TLS ClusterTLS

	// NATS says where the bus is. The command line turns it into Open.
	NATS NATS

	// Node and Version are this node's name and version, for people. Default: the
	// host's name.
	Node, Version string

	// Open joins the bus. nil: this server stands alone.
	Open func(bus.Handler) (bus.Bus, error)
}

// ClusterTLS names PEM files: a certificate that is good for server and client, its
// key, and the authority that all nodes' certificates are of.
type ClusterTLS struct{ CertFile, KeyFile, CAFile string }

// NATS is how to reach the NATS servers that are the bus.
type NATS struct {
	URLs                      []string // such as nats://10.0.0.2:4222; user:password may be in them
	CredentialsFile           string   // of the nodes' own account
	NKeySeedFile              string
	CAFile, CertFile, KeyFile string // PEM, for tls://
}

// devClusterSecret is that of dev mode. Everybody knows it.
const devClusterSecret = "dian-dev-cluster-that-everybody-knows"

func (c *Cluster) enabled() bool { return c.Open != nil }

func (c *Cluster) name() string {
	if c.Name == "" {
		return "main"
	}
	return c.Name
}

// A clusterSecret is the secret's bytes.
type clusterSecret []byte

// laneKey is the key of the headers of carried requests.
func (s clusterSecret) laneKey(cluster string) []byte {
	mac := hmac.New(sha256.New, s)
	_, _ = mac.Write([]byte("dian lanes 1 " + cluster))
	return mac.Sum(nil)
}

// secret reads the secret and checks it.
func (c *Cluster) secret(dev bool) (clusterSecret, error) {
	secret := c.Secret
	if c.SecretFile != "" {
		if !secret.IsZero() {
			return nil, errors.New("cluster.secret_file: there is a secret already; give one")
		}
		var err error
		if secret, err = (configSource{read: readKeyFile}).secretFile(c.SecretFile); err != nil {
			return nil, fmt.Errorf("cluster.secret_file: %w", err)
		}
	}
	switch n := len(secret.bytes()); {
	case n == 0 && dev:
		return clusterSecret(devClusterSecret), nil
	case n == 0:
		return nil, errors.New("cluster.secret_file: the nodes need a secret to know each other by; make one with: openssl rand -hex 32")
	case n < nodes.MinSecret:
		return nil, fmt.Errorf("cluster.secret_file: the secret has %d bytes, at least %d are needed; make one with: openssl rand -hex 32", n, nodes.MinSecret)
	}
	if !dev && string(secret.bytes()) == devClusterSecret {
		return nil, errors.New("cluster.secret_file: this is the secret of dev mode, which everybody knows; make one with: openssl rand -hex 32")
	}
	return secret.bytes(), nil
}

func (c *Cluster) listen(dev bool) string {
	switch {
	case c.Listen != "":
		return c.Listen
	case dev:
		return "127.0.0.1:0"
	}
	return ":7701"
}

func (c *Cluster) nodeName() string {
	if c.Node != "" {
		return c.Node
	}
	name, _ := os.Hostname()
	return name
}

// clusterFile is the form of Cluster in the config file.
type clusterFile struct {
	Name       string         `yaml:"name"`
	Secret     secretText     `yaml:"secret"`
	SecretFile string         `yaml:"secret_file"`
	Listen     string         `yaml:"listen"`
	URL        string         `yaml:"url"`
	Node       string         `yaml:"node"`
	TLS        clusterTLSFile `yaml:"tls"`
	NATS       natsFile       `yaml:"nats"`
}

type clusterTLSFile struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
}

type natsFile struct {
	URLs            []string `yaml:"urls"`
	CredentialsFile string   `yaml:"credentials_file"`
	NKeySeedFile    string   `yaml:"nkey_seed_file"`
	CAFile          string   `yaml:"ca"`
	CertFile        string   `yaml:"cert"`
	KeyFile         string   `yaml:"key"`
}

func (f clusterFile) settings() Cluster {
	return Cluster{
		Name: f.Name, Secret: f.Secret.Secret, SecretFile: f.SecretFile, Listen: f.Listen, URL: f.URL, Node: f.Node,
		TLS: ClusterTLS{CertFile: f.TLS.Cert, KeyFile: f.TLS.Key, CAFile: f.TLS.CA}, NATS: NATS(f.NATS),
	}
}

// files returns the settings that name files, by their variables.
func (c *Cluster) files() map[string]*string {
	return map[string]*string{
		"DIAN_CLUSTER_SECRET_FILE": &c.SecretFile, "DIAN_CLUSTER_TLS_CERT": &c.TLS.CertFile,
		"DIAN_CLUSTER_TLS_KEY": &c.TLS.KeyFile, "DIAN_CLUSTER_TLS_CA": &c.TLS.CAFile,
		"DIAN_CLUSTER_NATS_CREDENTIALS_FILE": &c.NATS.CredentialsFile,
		"DIAN_CLUSTER_NATS_NKEY_SEED_FILE":   &c.NATS.NKeySeedFile, "DIAN_CLUSTER_NATS_CA": &c.NATS.CAFile,
		"DIAN_CLUSTER_NATS_CERT": &c.NATS.CertFile, "DIAN_CLUSTER_NATS_KEY": &c.NATS.KeyFile,
	}
}

// check says what is wrong, naming the key of the config file.
func (c *Cluster) check(dev bool) error {
	if !c.enabled() && len(c.NATS.URLs) == 0 {
		return nil
	}
	if len(c.Name) > 64 || strings.Trim(c.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return errors.New("cluster.name: use at most 64 letters, digits, - and _")
	}
	if _, err := c.secret(dev); err != nil {
		return err
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" ||
			u.RawQuery != "" || u.Fragment != "" {
			return errors.New("cluster.url: write it like http://10.0.0.5:7701, without a path")
		}
	}
	server, _, err := c.TLS.configs()
	if err == nil && c.URL != "" && (server != nil) != strings.HasPrefix(c.URL, "https://") {
		return errors.New("cluster.url: it begins with https:// if there is cluster.tls, and with http:// if not")
	}
	return err
}
