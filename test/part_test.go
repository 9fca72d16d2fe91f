package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	sdk "github.com/dian-im/dian"
)

// play is the main function of a test binary that a test has started again as
// another program, because the command line has none like it. What it is told is
// in DIAN_TEST_*; it prints events as dian --json does, and ends with its
// standard input.
func play(part string) int {
	switch part {
	case "commander":
		return command()
	case "names":
		return serveNames()
	}
	fmt.Fprintf(os.Stderr, "no part %q\n", part)
	return 2
}

var telling sync.Mutex // lines of standard output do not mix

func tell(e event) {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	telling.Lock()
	defer telling.Unlock()
	os.Stdout.Write(append(line, '\n'))
}

// ending is closed when standard input ends.
func ending() <-chan struct{} {
	over := make(chan struct{})
	go func() {
		defer close(over)
		io.Copy(io.Discard, os.Stdin)
	}()
	return over
}

// command sends numbered commands, some of them in flight at any time, and tells
// each result. A command's text is "LIFE/NUMBER/padding".
func command() int {
	env := os.Getenv
	over, flying := ending(), make(chan struct{}, 8)
	result := func(r sdk.Result) {
		tell(event{"event": "result", "text": r.Cookie.(string), "code": uint32(sdk.CodeOf(r.Err))})
		<-flying
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client, err := sdk.Connect(ctx, env("DIAN_TEST_SERVER"), sdk.WithToken(env("DIAN_TEST_TOKEN")), sdk.WithSendOnly(),
		sdk.WithCommandTimeout(20*time.Second), sdk.WithHandler(sdk.Handler{SendCmdResult: result}))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for n := 1; ; n++ {
		select {
		case <-over:
			for range cap(flying) { // all have their results
				flying <- struct{}{}
			}
			client.Close()
			return 0
		case <-client.Done():
			fmt.Fprintln(os.Stderr, client.Err())
			return 1
		case flying <- struct{}{}:
		}
		name := fmt.Sprintf("%s/%d", env("DIAN_TEST_LIFE"), n)
		client.SendCmd(env("DIAN_TEST_TARGET"), []byte(name+"/"+strings.Repeat("x", rand.IntN(3000))), sdk.WithCookie(name))
		time.Sleep(rand.N(30 * time.Millisecond))
	}
}
