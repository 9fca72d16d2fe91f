package link

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// FuzzBytes writes any bytes to a session behind its handshake. It ends, in time,
// with a reason, and hands over only frames for which there were bytes (cases 1 to 8).
func FuzzBytes(f *testing.F) {
	ping := []byte{0x89, 0x80, 1, 2, 3, 4}
	message := encoded(f, received(7), received(8))
	masked := append([]byte{0x82, 0x80 | byte(len(message)), 0, 0, 0, 0}, message...)
	f.Add(masked)
	f.Add(append(masked[:len(masked):len(masked)], ping...))
	f.Add([]byte{0x02, 0x80, 0, 0, 0, 0, 0x80, 0x80, 0, 0, 0, 0})
	f.Add([]byte{0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xC2, 0x81, 0, 0, 0, 0, 0})
	f.Add([]byte{0x88, 0x82, 0, 0, 0, 0, 3, 0xE8})
	f.Add([]byte{0x82, 0xFE, 0xFF, 0xFF, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 100_000 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			client, server, below := memPair(t)
			handled := 0
			ended := run(t, New(server, Config{Heartbeat: 10 * time.Second, Handle: func(*wire.Frame) error { handled++; return nil }}))
			go func() { // what the server says
				buf := make([]byte, 4096)
				for {
					if _, err := below.Read(buf); err != nil {
						return
					}
				}
			}()
			start := time.Now()
			_ = below.SetWriteDeadline(start.Add(time.Minute))
			_, _ = below.Write(data)
			if err := <-ended; err == nil {
				t.Error("ended without a reason")
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("ended after %v", took)
			}
			if handled > len(data) {
				t.Errorf("%d frames in %d bytes", handled, len(data))
			}
			client.Close()
		})
	})
}
