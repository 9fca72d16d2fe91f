package main

import (
	"cmp"
	"os"

	"github.com/dian-im/dian/internal/bus"
	"github.com/dian-im/dian/internal/bus/natsbus"
	"github.com/dian-im/dian/server"
)

// joinCluster has the relay of config join the cluster that it names, if it names one.
func joinCluster(config *server.Config) error {
	nats := config.Cluster.NATS
	if len(nats.URLs) == 0 {
		return nil
	}
	host, _ := os.Hostname()
	join := natsbus.Config{
		URLs: nats.URLs, CredentialsFile: nats.CredentialsFile, NKeySeedFile: nats.NKeySeedFile,
		CAFile: nats.CAFile, CertFile: nats.CertFile, KeyFile: nats.KeyFile,
		Name: "dian " + cmp.Or(config.Cluster.Node, host), Logger: config.Logger,
	}
	if err := join.Check(); err != nil {
		return err
	}
	config.Cluster.Version = version()
	config.Cluster.Open = func(h bus.Handler) (bus.Bus, error) { return natsbus.Open(join, h) }
	return nil
}
