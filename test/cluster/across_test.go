package cluster

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/dian-im/dian"
)

func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// Commands, buffers and files go from one node to another as on one.
func TestEverythingAcrossNodes(t *testing.T) {
	t.Parallel()
	c, _ := onMem(t, 3)
	commands := make(chan dian.CmdData, 1000)
	buffers := make(chan []byte, 10)
	files := make(chan dian.FileData, 10)
	c.client(c.nodes[1], "bob", dian.WithHandler(dian.Handler{
		NotifyCmdData:    func(m dian.CmdData) { commands <- m },
		NotifyBufferData: func(m dian.BufferData) { buffers <- m.Data },
		NotifyFileData:   func(m dian.FileData) { files <- m },
	}))
	alice := c.client(c.nodes[0], "alice")
	var tasks []*dian.Task
	for i := range 500 {
		tasks = append(tasks, alice.SendCmd("bob", fmt.Append(nil, i)))
	}
	for i, task := range tasks {
		if err := result(t, task); err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	for i := range 500 {
		if m := <-commands; string(m.Data) != fmt.Sprint(i) || m.Source != "alice" {
			t.Fatalf("command %d: %q of %s", i, m.Data, m.Source)
		}
	}
	for _, n := range []int{0, 10, 64 << 10, 1 << 20, 20 << 20} {
		data := content(n)
		if err := result(t, alice.SendBuffer("bob", data)); err != nil {
			t.Fatalf("buffer of %d bytes: %v", n, err)
		}
		if got := <-buffers; !bytes.Equal(got, data) {
			t.Fatalf("a buffer of %d bytes has arrived as %d others", n, len(got))
		}
	}
	data := content(70 << 20)
	if err := result(t, alice.SendReader("bob", bytes.NewReader(data), int64(len(data)), dian.WithName("x.bin"))); err != nil {
		t.Fatal(err)
	}
	f := <-files
	got, err := os.ReadFile(f.Path)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the file has %d bytes, %v", len(got), err)
	}
	if err := result(t, alice.SendCmd("carol", nil)); dian.CodeOf(err) != dian.ErrPeerOffline {
		t.Errorf("to nobody: %v, want 603", err)
	}
}
