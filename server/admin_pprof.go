package server

import (
	"errors"
	"net/http"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

const (
	profileSeconds    = 30
	maxProfileSeconds = 60
)

// pprofLock lets one profile be made at a time.
type pprofLock chan struct{} // capacity 1

// profile is GET /debug/pprof/{profile}: what go tool pprof asks for. It is not
// net/http/pprof, which puts itself on the DefaultServeMux of every program that
// links it, and shows the command line, where a secret could be (case 31).
func (a *admin) profile(w http.ResponseWriter, r *http.Request, act *actRecord) error {
	act.action = "profile"
	name := r.PathValue("profile")
	number := func(key string, otherwise, most int) (int, error) {
		text := r.URL.Query().Get(key)
		if text == "" {
			return otherwise, nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > most {
			return 0, errors.New(key + " is out of range")
		}
		return n, nil
	}
	seconds, err := number("seconds", profileSeconds, maxProfileSeconds)
	if err != nil {
		return err
	}
	debug, err := number("debug", 0, 2)
	if err != nil {
		return err
	}
	select {
	case a.pprof <- struct{}{}:
		defer func() { <-a.pprof }()
	default:
		return &wire.Error{Code: wire.OverLimit, Detail: "a profile is being made"}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	switch stored := pprof.Lookup(name); {
	case name == "profile":
		err = pprof.StartCPUProfile(w)
		if err == nil {
			defer pprof.StopCPUProfile()
		}
	case name == "trace":
		err = trace.Start(w)
		if err == nil {
			defer trace.Stop()
		}
	case stored == nil:
		return errors.New("there is no such profile")
	default:
		_ = stored.WriteTo(w, debug) // a client that has gone away is no error of ours
		return nil
	}
	if err != nil { // the program makes one by itself
		return &wire.Error{Code: wire.OverLimit, Detail: "a profile is being made"}
	}
	end := time.NewTimer(time.Duration(seconds) * time.Second)
	defer end.Stop()
	select {
	case <-end.C:
	case <-r.Context().Done():
	}
	return nil
}
