package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dian-im/dian"
)

// A newer login anywhere kicks the older one, whose program is told once and for good.
func TestOneSessionPerUser(t *testing.T) {
	t.Parallel()
	c, _ := onMem(t, 3)
	var last *dian.Client
	for i := range 7 {
		got := make(chan string, 10)
		client := c.client(c.nodes[i%3], "bob", dian.WithHandler(dian.Handler{
			NotifyCmdData: func(m dian.CmdData) { got <- string(m.Data) },
		}))
		if last != nil {
			select {
			case <-last.Done():
			case <-time.After(patience):
				t.Fatalf("login %d has not kicked the one before", i)
			}
			if err := last.Err(); dian.CodeOf(err) != dian.ErrKicked {
				t.Fatalf("login %d: the one before ended with %v, want 10", i, err)
			}
		}
		last = client
		if err := result(t, c.client(c.nodes[(i+1)%3], fmt.Sprint("alice", i)).SendCmd("bob", fmt.Append(nil, i))); err != nil {
			t.Fatalf("login %d: %v", i, err)
		}
		if m := <-got; m != fmt.Sprint(i) {
			t.Fatalf("login %d got %q", i, m)
		}
	}
	c.listeners("bob", 1)
}

// listeners checks, at every node, that a user is online there or not.
func (c *cluster) listeners(user string, status uint32) {
	c.t.Helper()
	for _, n := range c.nodes {
		probe := connect(c.t, n.url, "probe-"+n.name, dian.WithSendOnly())
		wait(c.t, fmt.Sprintf("%s has %s at %d", n.name, user, status), func() bool {
			states, err := probe.UserStatus(context.Background(), user)
			return err == nil && len(states) == 1 && uint32(states[0].Status) == status
		})
		probe.Close()
	}
}

// Of two sessions that a split network has let in, one stays when it is whole again,
// and a command reaches that one, once (case 96).
func TestSplitHealsToOneSession(t *testing.T) {
	t.Parallel()
	c, mem := onMem(t, 2)
	mem.Split("n0", "n1")
	for _, n := range c.nodes { // each gives the other up
		wait(t, "alone", func() bool { return metric(t, n.url, "dian_cluster_nodes") == 0 })
	}
	got := make(chan string, 10)
	handler := func(n int) dian.Option {
		return dian.WithHandler(dian.Handler{NotifyCmdData: func(m dian.CmdData) { got <- fmt.Sprint(n, " ", string(m.Data)) }})
	}
	bobs := []*dian.Client{c.client(c.nodes[0], "bob", handler(0)), c.client(c.nodes[1], "bob", handler(1))}
	for i, n := range c.nodes { // both work
		if err := result(t, connect(t, n.url, fmt.Sprint("alice", i)).SendCmd("bob", []byte("split"))); err != nil {
			t.Fatal(err)
		}
		if m := <-got; m != fmt.Sprint(i, " split") {
			t.Fatalf("got %q at node %d", m, i)
		}
	}
	mem.Join("n0", "n1")
	select {
	case <-bobs[0].Done():
	case <-time.After(patience):
		t.Fatal("the older session was not kicked")
	}
	if err := bobs[0].Err(); dian.CodeOf(err) != dian.ErrKicked {
		t.Errorf("it ended with %v, want 10", err)
	}
	if bobs[1].Err() != nil {
		t.Errorf("the newer one ended with %v", bobs[1].Err())
	}
	carol := connect(t, c.nodes[0].url, "carol")
	wait(t, "carol reaches bob", func() bool { return result(t, carol.SendCmd("bob", []byte("whole"))) == nil })
	if m := <-got; m != "1 whole" {
		t.Errorf("got %q, want it at node 1", m)
	}
	select {
	case m := <-got:
		t.Errorf("and %q", m)
	case <-time.After(200 * time.Millisecond):
	}
}

// A node that hears another one and is not heard by it does not say anything to it in
// vain for ever: users there are offline, as they would be if it heard nothing.
func TestOneWayPartition(t *testing.T) {
	t.Parallel()
	c, mem := onMem(t, 2)
	alice := c.client(c.nodes[0], "alice", dian.WithSendOnly())
	got := make(chan string, 10)
	c.client(c.nodes[1], "bob", dian.WithHandler(dian.Handler{
		NotifyCmdData: func(m dian.CmdData) { got <- string(m.Data) },
	}))
	send := func(text string) error { return result(t, alice.SendCmd("bob", []byte(text))) }
	if err := send("before"); err != nil {
		t.Fatal(err)
	}
	mem.Drop(func(from, to, _ string) bool { return from == "n0" && to == "n1" })
	for _, n := range c.nodes {
		wait(t, n.name+" has given the other up", func() bool { return metric(t, n.url, "dian_cluster_nodes") == 0 })
	}
	if err := send("lost"); dian.CodeOf(err) != dian.ErrPeerOffline {
		t.Errorf("to one who cannot be reached: %v, want 603", err)
	}
	mem.Drop(nil)
	c.meet()
	if err := send("after"); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"before", "after"} {
		if m := <-got; m != want {
			t.Errorf("bob got %q, want %q", m, want)
		}
	}
}

// Two programs of one user at two nodes that kick each other all the time are told so,
// as at one (case 34).
func TestFightAcrossNodes(t *testing.T) {
	t.Parallel()
	c, _ := onMem(t, 2)
	for i := range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		client, err := dian.Connect(ctx, c.nodes[i%2].url, dian.WithToken(token(t, "bob")), dian.WithReceiveDir(t.TempDir()))
		cancel()
		if err != nil {
			if dian.CodeOf(err) != dian.ErrOverLimit || i < 6 {
				t.Fatalf("login %d: %v", i, err)
			}
			return
		}
		t.Cleanup(func() { client.Close() })
		wait(t, "everybody knows", func() bool { return metric(t, c.nodes[(i+1)%2].url, "dian_cluster_users") == 1 })
	}
	t.Error("fifty kicks in a row were let in")
}

// Presence is the same at every node, and right after a node has gone.
func TestPresenceAcrossNodes(t *testing.T) {
	t.Parallel()
	c, mem := onMem(t, 3)
	var mu sync.Mutex
	seen := map[string]uint32{}
	watcher := c.client(c.nodes[0], "watcher", dian.WithHandler(dian.Handler{NotifyUserStatus: func(list []dian.UserStatus) {
		mu.Lock()
		defer mu.Unlock()
		for _, u := range list {
			seen[u.User] = uint32(u.Status)
		}
	}}))
	status := func(user string) uint32 {
		mu.Lock()
		defer mu.Unlock()
		return seen[user]
	}
	if err := watcher.StartUserStatusNotify(t.Context()); err != nil {
		t.Fatal(err)
	}
	bob, carol := c.client(c.nodes[1], "bob"), c.client(c.nodes[2], "carol")
	wait(t, "both are online", func() bool { return status("bob") == 1 && status("carol") == 1 })
	if err := bob.SetStatus(true, 7); err != nil {
		t.Fatal(err)
	}
	wait(t, "bob is busy", func() bool { return status("bob") == 2 })
	list, err := watcher.UserStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, u := range list {
		names = append(names, u.User)
	}
	slices.Sort(names)
	if fmt.Sprint(names) != "[bob carol watcher]" {
		t.Errorf("online are %v", names)
	}
	before := metric(t, c.nodes[0].url, "dian_cluster_messages_sent_total")
	all := make([]string, 500)
	for i := range all {
		all[i] = fmt.Sprint("user", i)
	}
	if _, err := watcher.UserStatus(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	if sent := metric(t, c.nodes[0].url, "dian_cluster_messages_sent_total") - before; sent > 20 {
		t.Errorf("a question about 500 users took %v messages", sent)
	}
	carol.Close()
	wait(t, "carol is offline", func() bool { return status("carol") == 0 })
	mem.Cut("n1") // bob's node is not heard any more
	wait(t, "bob is offline", func() bool { return status("bob") == 0 })
	mem.Heal("n1")
	wait(t, "bob is back", func() bool { return status("bob") == 2 })
}

// What a node tells is not lost for good when the bus loses it.
func TestLossyBus(t *testing.T) {
	t.Parallel()
	c, mem := onMem(t, 3)
	var n int
	var mu sync.Mutex
	mem.Drop(func(from, to, subject string) bool {
		mu.Lock()
		defer mu.Unlock()
		n++
		return n%7 == 0
	})
	got := make(chan string, 10_000)
	buffers := make(chan string, 1000)
	c.client(c.nodes[1], "bob", dian.WithHandler(dian.Handler{
		NotifyCmdData:    func(m dian.CmdData) { got <- string(m.Data) },
		NotifyBufferData: func(m dian.BufferData) { buffers <- m.SendID },
	}))
	alice := c.client(c.nodes[0], "alice")
	var commands, transfers []*dian.Task
	for i := range 200 {
		commands = append(commands, alice.SendCmd("bob", fmt.Append(nil, i), dian.WithWaitForPeer(patience)))
		if i%10 == 0 {
			transfers = append(transfers, alice.SendBuffer("bob", content(i*2000), dian.WithWaitForPeer(patience)))
		}
		time.Sleep(5 * time.Millisecond)
	}
	ok := map[string]bool{}
	for i, task := range commands {
		err := result(t, task)
		if err != nil && !errors.Is(err, dian.ErrPeerNoAnswer) {
			t.Errorf("command %d: %v", i, err)
		}
		if err == nil {
			ok[fmt.Sprint(i)] = true
		}
	}
	sent := map[string]bool{}
	for i, task := range transfers {
		if err := result(t, task); err != nil {
			t.Errorf("buffer %d: %v", i, err)
		}
		sent[task.ID()] = true
	}
	mem.Drop(nil)
	seen := map[string]int{}
	for range len(got) {
		seen[<-got]++
	}
	for m, times := range seen {
		if times != 1 {
			t.Errorf("command %s was delivered %d times", m, times)
		}
	}
	for m := range ok {
		if seen[m] != 1 {
			t.Errorf("command %s has the result 0 and was delivered %d times", m, seen[m])
		}
	}
	if len(ok) < len(commands)*9/10 {
		t.Errorf("only %d of %d commands have arrived", len(ok), len(commands))
	}
	for id := range sent {
		if id != <-buffers && len(sent) == 1 {
			t.Error("another buffer")
		}
	}
}
