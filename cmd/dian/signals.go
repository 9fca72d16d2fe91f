package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// A signalError is the cause of a context that Ctrl-C or SIGTERM has ended.
type signalError struct{ signal os.Signal }

// Error names the signal.
func (e signalError) Error() string { return e.signal.String() }

// interruptible returns a context that the first SIGINT or SIGTERM ends, with a
// signalError as its cause; the second one ends the process at once. stop gives
// the signals back and waits for what was started here.
func interruptible() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case s := <-signals:
			cancel(signalError{s})
		case <-done:
			return
		}
		select {
		case s := <-signals:
			os.Exit(int(signalStatus(s)))
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-ended
		cancel(nil)
	}
}

// interrupted returns the exit status if a signal has ended ctx.
func interrupted(ctx context.Context) (status, bool) {
	if s, ok := errors.AsType[signalError](context.Cause(ctx)); ok {
		return signalStatus(s.signal), true
	}
	return 0, false
}
