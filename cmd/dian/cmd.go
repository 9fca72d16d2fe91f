package main

import (
	"io"
	"time"

	"github.com/dian-im/dian"
)

// Limits of what is read from standard input and files.
const (
	cmdBytes    = 65_536
	bufferBytes = 104_857_600
)

// cmdCmd is `dian cmd`.
type cmdCmd struct {
	connection `embed:""`
	JSON       bool          `name:"json" help:"Print the result as a JSON event."`
	Wait       time.Duration `placeholder:"DURATION" help:"Wait so long for an offline user."`
	Timeout    time.Duration `default:"60s" placeholder:"DURATION" help:"How long the user may take to take it (${default})."`
	Meta       string        `placeholder:"TEXT" help:"Send this along, at most 4096 bytes."`

	Target string `arg:"" name:"user" help:"To whom."`
	Text   string `arg:"" help:"The command, at most 65536 bytes; - reads it from standard input."`
}

// Run sends one command and tells its result.
func (c *cmdCmd) Run(con *console) error {
	con.json = c.JSON
	ctx, stop := interruptible()
	defer stop()
	data := []byte(c.Text)
	if c.Text == "-" {
		var err error
		if data, err = readLimited(con.in, cmdBytes); err != nil {
			return c.refuse(con, &dian.Error{Code: dian.ErrFileRead, Detail: err.Error()})
		}
	}
	if len(data) > cmdBytes {
		return c.refuse(con, &dian.Error{Code: dian.ErrCommandTooLarge})
	}
	o, err := openOutbox(ctx, con, &c.connection, dian.WithCommandTimeout(c.Timeout))
	if err != nil {
		return err
	}
	defer logOut(o.client)
	task := o.client.SendCmd(c.Target, data, sendOptions(c.Wait, c.Meta)...)
	select {
	case <-task.Done():
	case <-ctx.Done():
		// A command cannot be cancelled: leaving is all one can do.
		return verdictOf(ctx, true)
	}
	result := o.await(ctx, task)
	o.tellResult(result, "command")
	return verdictOf(ctx, result.Err != nil)
}

func (c *cmdCmd) refuse(con *console, err *dian.Error) error {
	tellResult(con, dian.Result{Target: c.Target, Kind: dian.Command, Err: err}, "command")
	return status(statusFailed)
}

// sendOptions are the options that all kinds have.
func sendOptions(wait time.Duration, meta string) []dian.SendOption {
	var opts []dian.SendOption
	if wait > 0 {
		opts = append(opts, dian.WithWaitForPeer(wait))
	}
	if meta != "" {
		opts = append(opts, dian.WithMeta([]byte(meta)))
	}
	return opts
}

// readLimited reads r to its end, or to one byte past limit, so that more is
// seen without being kept.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, limit+1))
}
