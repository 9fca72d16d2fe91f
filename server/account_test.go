package server

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func newBook() *book[string] {
	b := &book[string]{}
	b.init()
	return b
}

func TestAccountIsKeptWhileItIsHeld(t *testing.T) {
	b := newBook()
	first := b.hold("alice", 0)
	if b.hold("alice", 0) != first || b.hold("bob", 0) == first {
		t.Fatal("an account for each key")
	}
	b.sweep(1 << 60)
	first.release(0)
	if b.size() != 2 || b.hold("alice", 0) != first {
		t.Error("a held account was forgotten")
	}
	first.release(0)
	first.release(0)
	if b.size() != 1 {
		t.Errorf("%d accounts, want bob's alone: alice's has nothing to remember", b.size())
	}
}

func TestSpentAccountIsRememberedUntilItIsFull(t *testing.T) {
	const second = int64(time.Second)
	b := newBook()
	a := b.hold("alice", 0)
	for _, m := range []func() *meter{
		func() *meter { return &a.logins }, func() *meter { return &a.commands },
		func() *meter { return &a.calm }, func() *meter { return &a.connects },
	} {
		m().take(0, perSecond(1), 2)
		a.release(0)
		b.sweep(2*second - 1)
		if again := b.hold("alice", 0); again != a {
			t.Fatal("forgotten before it was full")
		}
		a.release(0)
		b.sweep(2 * second)
		if b.size() != 0 {
			t.Fatal("remembered although it is full")
		}
		a = b.hold("alice", 0)
	}
	a.used[countSent].Add(1) // its commands are still under way
	a.release(0)
	if b.hold("alice", 0) != a {
		t.Error("forgotten although something of it is under way")
	}
}

// case 53
func TestBookDoesNotGrowForEver(t *testing.T) {
	b := newBook()
	for i := range 100_000 {
		a := b.hold(fmt.Sprint(i), 0)
		a.logins.take(0, perSecond(1), 1)
		a.release(0)
	}
	if n := b.size(); n > bookShards*bookRest || n < bookShards*bookRest/2 {
		t.Errorf("%d accounts are remembered, want about %d", n, bookShards*bookRest)
	}
	for i := range b.shards {
		sh := &b.shards[i]
		n := 0
		for a := sh.oldest; a != nil; a = a.next {
			n++
			if sh.accounts[a.key] != a {
				t.Fatal("a listed account is not in the map")
			}
		}
		if n != sh.resting || n != len(sh.accounts) {
			t.Fatalf("%d are listed, %d counted, %d in the map", n, sh.resting, len(sh.accounts))
		}
	}
	// The latest are those that are remembered.
	if a := b.hold("99999", 0); a.logins.isFull(0) {
		t.Error("the latest one was forgotten")
	}
	b.sweep(int64(time.Second))
	if n := b.size(); n != 1 {
		t.Errorf("%d accounts after a second, want the held one", n)
	}
}

func TestBookUnderContention(t *testing.T) {
	b := newBook()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range int64(5000) {
				a := b.hold(fmt.Sprint(rand.N(50)), i)
				a.used[countSessions].Add(1)
				a.commands.take(i, perSecond(1000), 1)
				c := a.holdAgain()
				a.release(i)
				c.used[countSessions].Add(-1)
				c.release(i)
				if i%100 == 0 {
					b.sweep(i)
				}
			}
		})
	}
	all.Wait()
	b.sweep(1 << 60)
	if b.size() != 0 {
		t.Errorf("%d accounts are left", b.size())
	}
}
