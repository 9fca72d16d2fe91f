package cluster

import (
	"testing"
	"time"
)

// An answer may come after the news that its user has gone: unless the node that gave it
// announces him itself it is forgotten again.
func TestAnswerThatIsNotAnnouncedIsForgotten(t *testing.T) {
	now := time.Unix(1e9, 0)
	v := NewView(1, now)
	var e Effects
	v.Heard(now, 2, true, 1, &e)
	v.Users(2, &Users{Page: 1, Last: true, Nonce: v.Asked(2)}, &e)
	bob, carol := Place{"app", "bob"}, Place{"app", "carol"}
	for _, p := range []Place{bob, carol} {
		e = Effects{}
		v.Learn(now, 2, &User{App: p.App, User: p.User, Instance: []byte("i"), Epoch: 7}, &e)
		if n, s := v.Find(p); n == nil || s.Epoch != 7 || len(e.Came) != 1 {
			t.Fatalf("Learn: %v is at %v, came %v", p, n, e.Came)
		}
	}
	number := uint64(2)
	hear := func(u *Users) {
		v.Heard(now, 2, true, number, &e)
		v.Users(2, u, &e)
		number++
	}
	hear(&Users{Users: []*User{{App: "app", User: "carol", Instance: []byte("i"), Epoch: 7}}})
	e = Effects{}
	for range 3 {
		now = now.Add(time.Second)
		hear(&Users{})
		v.Tick(now, &e)
	}
	if n, _ := v.Find(bob); n != nil || len(e.Changed) != 1 || e.Changed[0] != bob {
		t.Errorf("after 3 s bob is at %v, changed %v, want him gone", n, e.Changed)
	}
	if n, _ := v.Find(carol); n == nil {
		t.Error("carol, who was announced, is gone")
	}
}
