package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/dian-im/dian/server"
)

// serveCmd is `dian serve`. Its flags count more than the environment, which
// counts more than the config file.
type serveCmd struct {
	Dev           bool     `help:"Try things out: app demo, whose secret everybody knows, on this machine only."`
	LAN           bool     `name:"lan" help:"With --dev: for the people in this room too. Prints a link, and its QR code, that lets one device in."`
	Config        string   `type:"path" placeholder:"FILE" help:"YAML file; docs/configuration.md has its keys."`
	Listen        string   `placeholder:"HOST:PORT" help:"Where to listen (:7700; with --dev 127.0.0.1:7700)."`
	ListenFile    string   `type:"path" placeholder:"FILE" help:"Write the address to this file when it is listened on: with port 0 nobody else knows."`
	TLSCert       string   `name:"tls-cert" type:"path" placeholder:"FILE" help:"PEM file with the certificate."`
	TLSKey        string   `name:"tls-key" type:"path" placeholder:"FILE" help:"PEM file with its private key."`
	ClientCA      string   `name:"client-ca" type:"path" placeholder:"FILE" help:"PEM file; clients need a certificate of one of its authorities."`
	MetricsListen string   `placeholder:"HOST:PORT" help:"Where /metrics is, instead of with everything else."`
	AdminListen   string   `placeholder:"SOCKET|HOST:PORT" help:"Where dian admin reaches this relay: the path of a socket, or a loopback address."`
	AdminToken    string   `name:"admin-token-file" type:"path" placeholder:"FILE" help:"A file with the token that dian admin needs; dian admin token makes one."`
	NATS          []string `name:"nats" placeholder:"URL" help:"Join a cluster of relays over this NATS, such as nats://10.0.0.2:4222; several with commas."`
	ClusterSecret string   `name:"cluster-secret-file" type:"path" placeholder:"FILE" help:"A file with the secret that the relays of a cluster know each other by."`
	ClusterListen string   `placeholder:"HOST:PORT" help:"Where the other relays' lanes come in (:7701; with --dev a free port of 127.0.0.1)."`
	ClusterURL    string   `name:"cluster-url" placeholder:"URL" help:"Where the other relays reach that, if not at the address from which this one reaches NATS."`
	LogLevel      string   `default:"info" enum:"debug,info,warn,error" help:"What to log to standard error: ${enum} (${default})."`
	LogJSON       bool     `name:"log-json" help:"Log JSON."`
}

// Run serves until SIGINT or SIGTERM; the second one ends the process at once.
func (c *serveCmd) Run(con *console) error {
	config, err := c.config()
	if err != nil {
		return usage("%s", err)
	}
	config.Logger = c.logger(con.err)
	if err := joinCluster(&config); err != nil {
		return usage("%s", err)
	}
	boundMemory()
	ctx, stop := interruptible()
	defer stop()
	// Before anybody can know that we are there: a SIGHUP that nobody waits for is
	// the end of the process.
	hangups := make(chan os.Signal, 1)
	notifyReload(hangups)
	defer signal.Stop(hangups)
	if config.Audit.File == "-" {
		con.out = con.err // standard output has the audit's lines alone
	}
	for again := false; ; again = true {
		if err = c.serve(ctx, con, &config, hangups, again); !errors.Is(err, server.ErrRestart) {
			return err
		}
		con.say("restarted: sessions and transfers are forgotten")
	}
}

// serve is one life of the relay, which ends with ctx or with a restart that the page
// of dev mode asks for. The next one listens where this one did.
func (c *serveCmd) serve(ctx context.Context, con *console, config *server.Config, hangups <-chan os.Signal, again bool) error {
	relay, err := server.New(*config)
	if err != nil {
		return usage("%s", err)
	}
	admin, err := c.openAdmin(*config, relay)
	if err != nil {
		_ = relay.Shutdown(ctx) // nothing runs yet
		return err
	}
	listener, metrics, err := c.open(*config)
	if err != nil {
		if admin != nil {
			admin.Close()
		}
		_ = relay.Shutdown(ctx)
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	// To the relay's own end and not only to ctx's: an operator wants to see how it drains.
	beside, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	running.Go(func() { giveBackMemory(beside) })
	running.Go(func() { c.reloadOnSignal(beside, hangups, relay, config.Room, config.Logger) })
	if metrics != nil {
		running.Go(func() { serveMetrics(beside, relay, metrics, config.Logger) })
	}
	if admin != nil {
		running.Go(func() { serveAdmin(beside, relay, admin, config.Logger) })
	}
	if !again {
		config.Listen = listener.Addr().String()
		c.greet(con, *config, listener.Addr())
	}
	return relay.Serve(ctx, listener)
}

// greet says where the relay is and what to do with it.
func (c *serveCmd) greet(con *console, config server.Config, at net.Addr) {
	con.say("dian listens on %s", listenURL(config, at))
	if !config.Dev {
		return
	}
	here := listenURL(config, at)
	if config.Room != nil {
		here = strings.Replace(here, "[::]", "127.0.0.1", 1)
	}
	flag := ""
	if here != "http://127.0.0.1:7700" {
		flag = " --server " + here
	}
	if !config.NoPage {
		con.say("its page: %s/", here)
	}
	con.say("try it: dian listen --user bob%s   and, elsewhere: dian cmd --user alice bob hello%s", flag, flag)
	if config.Room != nil {
		openRoom(con, config, at)
	}
}

// boundMemory lets the garbage collector work harder near the end of the memory
// that there is, instead of letting garbage be as much as what is in use: a flood up
// to the limits of the config then fits. A quarter is left to the kernel's buffers
// of connections. Who sets GOMEMLIMIT has decided.
func boundMemory() {
	if n := memoryOf("/"); n > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(n / 4 * 3)
	}
}

// config is what file, environment and flags say together.
func (c *serveCmd) config() (server.Config, error) {
	config, err := server.LoadConfig(c.Config)
	if err != nil {
		return config, err
	}
	if c.Dev {
		config.Dev, config.DevRestart = true, true
		config.Apps = append(server.DevConfig().Apps, config.Apps...)
	}
	for flag, field := range map[*string]*string{
		&c.Listen: &config.Listen, &c.MetricsListen: &config.MetricsListen,
		&c.AdminListen: &config.Admin.Listen, &c.AdminToken: &config.Admin.TokenFile,
		&c.ClusterSecret: &config.Cluster.SecretFile, &c.ClusterListen: &config.Cluster.Listen, &c.ClusterURL: &config.Cluster.URL,
		&c.TLSCert: &config.TLS.CertFile, &c.TLSKey: &config.TLS.KeyFile, &c.ClientCA: &config.TLS.ClientCAFile,
	} {
		if *flag != "" {
			*field = *flag
		}
	}
	if len(c.NATS) > 0 {
		config.Cluster.NATS.URLs = c.NATS
	}
	if c.LAN {
		if !c.Dev {
			return config, errors.New("--lan: give it with --dev; without, a relay listens for everybody anyway")
		}
		config.Room = server.NewRoom()
	}
	if config.Listen == "" {
		config.Listen = ":7700"
		if config.Dev && !c.LAN {
			config.Listen = "127.0.0.1:7700"
		}
	}
	return config, nil
}

func (c *serveCmd) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic("dian: the grammar lets a wrong log level pass: " + err.Error())
	}
	options := &slog.HandlerOptions{Level: level}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// open opens the listeners; metrics is nil without one.
func (c *serveCmd) open(config server.Config) (listener, metrics net.Listener, err error) {
	if listener, err = c.openOne("--listen", config, config.Listen); err != nil {
		return nil, nil, err
	}
	if config.MetricsListen != "" {
		if metrics, err = c.openOne("--metrics-listen", config, config.MetricsListen); err != nil {
			listener.Close()
			return nil, nil, err
		}
	}
	if c.ListenFile != "" {
		if err := writeWhole(c.ListenFile, listener.Addr().String()+"\n"); err != nil {
			listener.Close()
			if metrics != nil {
				metrics.Close()
			}
			return nil, nil, usage("--listen-file: %s", err)
		}
	}
	return listener, metrics, nil
}

func (c *serveCmd) openOne(flag string, config server.Config, address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, usage("%s: cannot listen on %s: %s", flag, quote(address), plainNet(err))
	}
	if config.Dev && config.Room == nil {
		if err := server.CheckDevAddress(listener.Addr()); err != nil {
			listener.Close()
			return nil, usage("%s: %s", flag, err)
		}
	}
	return listener, nil
}

// plainNet takes operation and address off a network error, which our text has.
func plainNet(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Err != nil {
		return e.Err
	}
	return err
}

// writeWhole writes a file so that a reader sees all of it or nothing.
func writeWhole(path, text string) error {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = temp.WriteString(text)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		os.Remove(temp.Name())
	}
	return err
}

// listenURL is what to give to --server on this machine.
func listenURL(config server.Config, address net.Addr) string {
	scheme := "http"
	if config.TLS.CertFile != "" {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s", scheme, address)
}

// reloadOnSignal reads keys, limits, certificates and revocations again and opens the
// audit file anew at each of hangups until ctx ends. What is wrong is logged, and the old
// ones stay.
func (c *serveCmd) reloadOnSignal(ctx context.Context, hangups <-chan os.Signal, relay *server.Server, room *server.Room, log *slog.Logger) {
	for {
		select {
		case <-hangups:
		case <-ctx.Done():
			return
		}
		if err := relay.ReopenAudit(); err != nil { // whatever else is wrong
			log.Error("the audit goes on in the old file", "err", err)
		}
		config, err := c.config()
		config.Room = room
		if err == nil {
			err = relay.Reload(config)
		}
		if err != nil {
			log.Error("keys, limits, certificates and revocations stay as they were", "err", err)
			continue
		}
		log.Info("keys, limits, certificates and revocations reloaded")
	}
}

// openAdmin opens the admin listener; nil without one.
func (c *serveCmd) openAdmin(config server.Config, relay *server.Server) (net.Listener, error) {
	if config.Admin.Listen == "" {
		return nil, nil
	}
	listener, err := relay.ListenAdmin()
	if err != nil {
		return nil, usage("%s", err)
	}
	return listener, nil
}

func serveAdmin(ctx context.Context, relay *server.Server, listener net.Listener, log *slog.Logger) {
	if err := relay.ServeAdmin(ctx, listener); err != nil {
		log.Error("admin is not served any more", "err", err)
	}
}

// serveMetrics serves /metrics and health on a listener of their own.
func serveMetrics(ctx context.Context, relay *server.Server, listener net.Listener, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", relay.MetricsHandler())
	mux.Handle("GET /healthz", relay)
	mux.Handle("GET /readyz", relay)
	web := &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { web.Close() })
	defer stop()
	if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Error("metrics are not served any more", "err", err)
	}
}
