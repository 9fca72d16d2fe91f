// Command dian is the relay and its clients on the command line: it serves, makes
// tokens, listens, and sends commands, buffers and files. docs/cli.md describes
// every verb, event and exit status.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// What the process ends with. A signal adds its number to statusSignal.
const (
	statusFailed = 1
	statusUsage  = 2
	statusSignal = 128
)

// cli is the grammar; each verb is a type with a method Run in a file of its own.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run a relay."`
	Token   tokenCmd   `cmd:"" help:"Make a token for a user."`
	Listen  listenCmd  `cmd:"" help:"Receive: print commands and buffers, keep files."`
	Cmd     cmdCmd     `cmd:"" help:"Send a command."`
	Buffer  bufferCmd  `cmd:"" help:"Send a buffer."`
	Send    sendCmd    `cmd:"" help:"Send files."`
	Users   usersCmd   `cmd:"" help:"Tell who is online."`
	Bench   benchCmd   `cmd:"" help:"Measure a relay."`
	Admin   adminCmd   `cmd:"" help:"See and act on a running relay as its operator."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() { os.Exit(run(os.Args[1:])) }

// run is the whole program but for the exit: it returns the status.
func run(args []string) int {
	con := newConsole(os.Stdin, os.Stdout, os.Stderr)
	// A grammar that cannot be built is a bug, so Must may panic.
	parser := kong.Must(&cli{}, append(exactArguments(),
		kong.Name("dian"),
		kong.Description("Carry commands, buffers and files from one user to another."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(os.Stdout, os.Stderr),
	)...)
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err == nil {
		err = parsed.Run(con)
	} else if p, ok := errors.AsType[*kong.ParseError](err); ok {
		err = usage("%s; see %s --help", p.Error(), verb(p))
	}
	return con.end(err)
}

// verb returns the command line up to the verb that was understood, for the hint
// where help is.
func verb(p *kong.ParseError) string {
	if p.Context == nil || p.Context.Command() == "" {
		return "dian"
	}
	name, _, _ := strings.Cut(p.Context.Command(), " ")
	return "dian " + name
}

// A status is an error that has been told already; the process ends with it.
type status int

// Error returns the number.
func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// usageError is about how dian was called or configured: exit status 2.
type usageError struct{ text string }

// Error returns what to change.
func (e usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// end tells an error, if nobody has, and returns the exit status for it.
func (c *console) end(err error) int {
	if err == nil {
		err = c.writeError()
	}
	if err == nil {
		return 0
	}
	if s, ok := errors.AsType[status](err); ok {
		return int(s)
	}
	if u, ok := errors.AsType[usageError](err); ok {
		// One line, whatever a configuration's errors have.
		c.warn("%s", strings.Join(strings.Split(strings.TrimSpace(u.text), "\n"), "; "))
		return statusUsage
	}
	c.warn("%s", describe(err))
	return statusFailed
}
