package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dian-im/dian"
)

// bufferCmd is `dian buffer`.
type bufferCmd struct {
	connection `embed:""`
	JSON       bool          `name:"json" help:"Print progress and result as JSON events."`
	Wait       time.Duration `placeholder:"DURATION" help:"Wait so long for an offline user."`
	Name       string        `placeholder:"NAME" help:"The name to send along; the file's own unless given."`
	Type       string        `placeholder:"TYPE" help:"The media type to send along."`
	Meta       string        `placeholder:"TEXT" help:"Send this along, at most 4096 bytes."`

	Target string `arg:"" name:"user" help:"To whom."`
	File   string `arg:"" help:"Whose content, at most 104857600 bytes; - reads standard input."`
}

// Run sends one buffer and tells its result.
func (c *bufferCmd) Run(con *console) error {
	con.json = c.JSON
	ctx, stop := interruptible()
	defer stop()
	data, code := c.read(con)
	if code != dian.OK {
		tellResult(con, dian.Result{Target: c.Target, Kind: dian.Buffer, FileName: c.File, Err: &dian.Error{Code: code}}, c.what())
		return status(statusFailed)
	}
	o, err := openOutbox(ctx, con, &c.connection)
	if err != nil {
		return err
	}
	defer logOut(o.client)
	opts := sendOptions(c.Wait, c.Meta)
	if name := c.name(); name != "" {
		opts = append(opts, dian.WithName(name))
	}
	if c.Type != "" {
		opts = append(opts, dian.WithType(c.Type))
	}
	con.openBars()
	defer con.closeBars()
	task := o.client.SendBuffer(c.Target, data, opts...)
	ended := con.showBar(c.what(), task)
	result := o.await(ctx, task)
	o.tellResult(result, c.what())
	ended()
	return verdictOf(ctx, result.Err != nil)
}

func (c *bufferCmd) what() string {
	if c.File == "-" {
		return "buffer"
	}
	return quote(c.File)
}

func (c *bufferCmd) name() string {
	if c.Name != "" || c.File == "-" {
		return c.Name
	}
	return filepath.Base(c.File)
}

// read returns the content, or the code that says why there is none.
func (c *bufferCmd) read(con *console) ([]byte, dian.Code) {
	in := con.in
	if c.File != "-" {
		// Opening a pipe would wait for its writer.
		info, err := os.Stat(c.File)
		switch {
		case err != nil:
			return nil, fileCode(err)
		case !info.Mode().IsRegular():
			return nil, dian.ErrFileError
		case info.Size() > bufferBytes:
			return nil, dian.ErrBufferTooLarge
		}
		f, err := os.Open(c.File)
		if err != nil {
			return nil, fileCode(err)
		}
		defer f.Close()
		in = f
	}
	data, err := readLimited(in, bufferBytes)
	switch {
	case err != nil:
		return nil, dian.ErrFileRead
	case len(data) > bufferBytes:
		return nil, dian.ErrBufferTooLarge
	}
	return data, dian.OK
}

func fileCode(err error) dian.Code {
	if errors.Is(err, fs.ErrNotExist) {
		return dian.ErrFileNotFound
	}
	return dian.ErrFileRead
}
