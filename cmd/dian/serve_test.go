package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/dian-im/dian/server"
)

func TestMetricsHaveTheirOwnListener(t *testing.T) {
	config := server.DevConfig()
	config.MetricsListen = "127.0.0.1:0"
	relay, err := server.New(config)
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Shutdown(context.Background())
	serve := serveCmd{Listen: "127.0.0.1:0"}
	config.Listen = serve.Listen
	listener, metrics, err := serve.open(config)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { serveMetrics(ctx, relay, metrics, slog.New(slog.DiscardHandler)) })

	for path, want := range map[string]string{
		"/metrics": `dian_limit_used{limit="queued_bytes"} 0`, "/healthz": "ok", "/readyz": "", "/v1/users": "404",
	} {
		status, body := get(t, metrics.Addr(), path)
		switch {
		case want == "404":
			if status != http.StatusNotFound {
				t.Errorf("%s: %d, want 404: nothing else belongs here", path, status)
			}
		case status != http.StatusOK || !strings.Contains(body, want):
			t.Errorf("%s: %d %.80q", path, status, body)
		}
	}
	if err := relay.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, metrics.Addr(), "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz of a stopping relay: %d, want 503", status)
	}
}

func get(t *testing.T, address net.Addr, path string) (int, string) {
	t.Helper()
	res, err := http.Get("http://" + address.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}
