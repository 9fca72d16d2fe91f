package server

import (
	"encoding/base64"

	"github.com/dian-im/dian/internal/wire"
)

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// set changes how the receiver behaves.
func (d *diskReceiver) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

// transferOf returns the transfer of a task that was offered to the receiver.
func (d *diskReceiver) transferOf(sendID string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, p := range d.parts {
		if p.offer.SendId == sendID {
			return id
		}
	}
	return ""
}

// leave breaks the receiver's session off; its lanes may go on.
func (d *diskReceiver) leave(rt *relayTest) {
	d.t.Helper()
	d.conn.Close()
	eventually(d.t, func() bool { return rt.srv.listener("demo", d.user) == nil })
}

func isLineOff(f *wire.Frame) bool { return f.GetLineOff() != nil }
