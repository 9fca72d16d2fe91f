package dian_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

const speedSize = 512 << 20

func speedFile(b *testing.B) string {
	path := filepath.Join(b.TempDir(), "large")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block := noise(1 << 20)
	for range speedSize >> 20 {
		f.Write(block)
	}
	return path
}

// BenchmarkSendFile moves a file from disk to disk through a relay, all in this
// process; BenchmarkBareRelay is what to compare it with.
func BenchmarkSendFile(b *testing.B) {
	relay := diantest.New(b)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	path := speedFile(b)
	b.SetBytes(speedSize)
	b.ReportAllocs()
	for b.Loop() {
		task := alice.SendFile("bob", path)
		if err := task.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
		os.Remove((<-in.files).Path)
	}
}

// BenchmarkBareRelay copies a file through two TCP connections and io.Copy between
// them into a file, with an fsync at the end.
func BenchmarkBareRelay(b *testing.B) {
	path, dir := speedFile(b), b.TempDir()
	pipe := func() (net.Conn, net.Conn) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer ln.Close()
		a, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		c, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		return a, c
	}
	b.SetBytes(speedSize)
	for b.Loop() {
		up, upServer := pipe()
		down, downServer := pipe()
		go func() {
			f, _ := os.Open(path)
			buf := make([]byte, 256<<10)
			io.CopyBuffer(struct{ io.Writer }{up}, struct{ io.Reader }{f}, buf)
			f.Close()
			up.Close()
		}()
		go func() {
			io.CopyBuffer(struct{ io.Writer }{downServer}, struct{ io.Reader }{upServer}, make([]byte, 256<<10))
			downServer.Close()
			upServer.Close()
		}()
		to := filepath.Join(dir, "to")
		f, _ := os.Create(to)
		n, _ := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{down}, make([]byte, 256<<10))
		if n != speedSize {
			b.Fatal(n)
		}
		f.Sync()
		f.Close()
		down.Close()
		os.Remove(to)
	}
}
