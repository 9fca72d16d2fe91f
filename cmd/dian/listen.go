package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/dian-im/dian"
)

// excerptBytes is how much of a buffer the text output shows.
const excerptBytes = 64

// listenCmd is `dian listen`.
type listenCmd struct {
	connection `embed:""`
	Dir        string `type:"path" default:"." placeholder:"DIR" help:"Where to keep files (the current folder); unfinished ones are in its .dian."`
	JSON       bool   `name:"json" help:"Print JSON events."`
}

// Run receives until Ctrl-C, or until the line is off for good.
func (c *listenCmd) Run(con *console) error {
	con.json = c.JSON
	ctx, stop := interruptible()
	defer stop()
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return usage("--dir: %s", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return usage("--dir: %s is not a folder one can use: %s", quote(c.Dir), describe(err))
	}
	// Held from now on: who swaps it for a link does not redirect what comes (case 65).
	// The dot has the opening fail if it is no folder, instead of waiting for a FIFO.
	folder, err := os.OpenRoot(dir + string(filepath.Separator) + ".")
	if err != nil {
		return usage("--dir: %s is not a folder one can use: %s", quote(c.Dir), describe(err))
	}
	defer folder.Close()
	client, err := c.connect(ctx, con,
		dian.WithReceiveDir(filepath.Join(dir, ".dian")),
		dian.WithHandler(con.lineTold(con.received(folder))))
	if err != nil {
		return err
	}
	defer logOut(client)
	con.tell(lineEvent{Event: "line", State: "up"})
	con.say("listening as %s; files go to %s", quote(client.User()), quote(dir))
	return con.untilOff(ctx, client)
}

// untilOff waits for Ctrl-C, which is the usual end and status 0, or for the end
// of the line.
func (c *console) untilOff(ctx context.Context, client *dian.Client) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.broken:
		return c.writeError()
	case <-client.Done():
		err := client.Err()
		logOut(client) // what has come before the end is told before it
		return c.lineOff(err)
	}
}

// received returns the callbacks that tell what arrives and keep files in folder.
func (c *console) received(folder *os.Root) dian.Handler {
	return dian.Handler{
		NotifyCmdData: func(m dian.CmdData) {
			event := cmdEvent{Event: "cmd", SendID: m.SendID, From: m.Source, Data: bytesOf(m.Data), Meta: m.Meta}
			if utf8.Valid(m.Data) {
				text := string(m.Data)
				event.Text = &text
			}
			c.tell(event)
			c.say("command from %s: %s", quote(m.Source), quote(string(m.Data)))
		},
		NotifyBufferData: func(m dian.BufferData) {
			c.tell(bufferEvent{"buffer", m.SendID, m.Source, m.Name, m.Type, int64(len(m.Data)), bytesOf(m.Data), m.Meta})
			name := ""
			if m.Name != "" {
				name = quote(m.Name) + ", "
			}
			c.say("buffer from %s: %s%d bytes: %s", quote(m.Source), name, len(m.Data), excerpt(m.Data, excerptBytes))
		},
		NotifyFileData: func(m dian.FileData) { c.keep(folder, m) },
		NotifyCancelSend: func(n dian.CancelNotice) {
			c.tell(cancelEvent{"cancel", n.SendID, n.Source, n.Kind.String()})
			c.say("%s from %s cancelled", n.Kind, quote(n.Source))
		},
	}
}

// bytesOf makes an empty slice of nil: in JSON "" and not null.
func bytesOf(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// keep moves a received file to folder, under its safe name and a number if that is
// taken, and tells of it.
func (c *console) keep(folder *os.Root, m dian.FileData) {
	path, err := m.SaveIn(folder)
	if err != nil {
		// It is complete all the same, and stays where it was received.
		path = m.Path
		c.warn("file from %s stays at %s: %s", quote(m.Source), quote(path), describe(err))
	}
	c.tell(fileEvent{"file", m.SendID, m.Source, path, m.Name, m.Type, m.Size, m.Receipt.String(), m.Meta})
	kept := ""
	if name := filepath.Base(path); name != m.Name {
		kept = fmt.Sprintf(" as %s", quote(name))
	}
	c.say("file from %s: %s%s, %s, %s", quote(m.Source), quote(m.Name), kept, sizeText(m.Size), receiptText(m.Receipt))
}
