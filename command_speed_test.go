package dian_test

import (
	"fmt"
	"testing"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/server"
)

// BenchmarkSendCmd sends commands of 100 bytes through a relay over TCP, so many in
// flight, all in this process: the processor's time of a command.
func BenchmarkSendCmd(b *testing.B) {
	fast := server.Limit{CommandsPerSecond: 1 << 20}
	relay := diantest.New(b, func(c *server.Config) {
		c.Limits = server.Limits{All: fast, App: fast, Address: fast, User: fast}
	})
	relay.Client("bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(dian.CmdData) {}}))
	for _, window := range []int{1, 256} {
		b.Run(fmt.Sprint(window), func(b *testing.B) {
			free := make(chan struct{}, window)
			alice := relay.Client("alice", dian.WithSendOnly(), dian.WithHandler(dian.Handler{
				SendCmdResult: func(r dian.Result) {
					if r.Err != nil {
						b.Error(r.Err)
					}
					<-free
				},
			}))
			data := make([]byte, 100)
			b.ReportAllocs()
			for b.Loop() {
				free <- struct{}{}
				alice.SendCmd("bob", data)
			}
			for range window { // the last ones
				free <- struct{}{}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
		})
	}
}
