package server

import (
	"encoding/json"
	"time"

	nodes "github.com/dian-im/dian/internal/cluster"
)

// kick has the other nodes end the sessions of a user, and returns how many of these
// are known here: the listening one.
func (c *cluster) kick(p place) int {
	if c == nil {
		return 0
	}
	_, _, there := c.carrier(p.app, p.user) // before it is gone
	c.out.say(everybody, &nodes.Message{Body: &nodes.Message_Kick{Kick: &nodes.Kick{App: p.app, User: p.user}}}, true)
	if there {
		return 1
	}
	return 0
}

// entriesAtOnce is how many revocations one message tells of: the longest is under 3 KiB.
const entriesAtOnce = 64

// revoked tells the other nodes of revocations, and of some that are lifted.
func (c *cluster) revoked(list []Revocation, lifted ...string) {
	if c != nil {
		c.sayRevocations(everybody, list, lifted)
	}
}

func (c *cluster) sayRevocations(to nodes.NodeID, list []Revocation, lifted []string) {
	for first := true; first || len(list) > 0; first = false {
		n := min(len(list), entriesAtOnce)
		m := &nodes.Revocations{}
		for _, r := range list[:n] {
			if entry, err := json.Marshal(r); err == nil {
				m.Entries = append(m.Entries, entry)
			}
		}
		list = list[n:]
		if first {
			m.Lifted = lifted
		}
		if len(m.Entries) > 0 || len(m.Lifted) > 0 {
			c.out.say(to, &nodes.Message{Body: &nodes.Message_Revocations{Revocations: m}}, true)
		}
	}
}

// tellRevocations tells a node of all revocations: it may not have been there.
func (c *cluster) tellRevocations(to nodes.NodeID) {
	c.sayRevocations(to, c.srv.revoked.all(time.Now()), c.srv.revoked.liftedIDs())
}

// takeRevocations puts those of another node into force.
func (c *cluster) takeRevocations(m *nodes.Revocations) {
	var list []Revocation
	for _, entry := range m.Entries {
		var r Revocation
		if json.Unmarshal(entry, &r) != nil || r.check() != nil || !isHex(r.ID, 8) {
			c.stats.odd.Inc()
			continue
		}
		list = append(list, r)
	}
	changed, err := c.srv.revoked.merge(list, m.Lifted, time.Now())
	if err != nil {
		c.srv.log.Error("revocations of another node are in force, but not in the file", "err", err)
	}
	if changed {
		c.srv.distrust()
	}
}
