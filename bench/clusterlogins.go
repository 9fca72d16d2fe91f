package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dian-im/dian"
)

const (
	loginsAtOnce = 64
	probes       = 20 // users in each round who are sent something when they have logged in
	probeWait    = 30 * time.Second
)

// clusterLogins measures how fast users log in, and how soon after it another node
// reaches them.
func (b *bench) clusterLogins() {
	const limit = "÷ one node"
	n := b.sessions / 10 * 2 // as many at each of two nodes
	t := &table{
		Name: clusterPrefix + "logins", Title: "Logins, and how soon a user is reached",
		Columns: []column{
			{Name: "logins/s", Ratio: limit}, {Name: "known to all nodes after, ms"},
			{Name: "first command behind a login, ms", Ratio: limit}, {Name: "the slowest, ms"},
		},
		Notes: []string{
			fmt.Sprintf("Without TLS, which would take most of the time. %s users who listen log in, %d at once, spread over the nodes. Then it is measured from the last answer until each node says of so many users that they are elsewhere (`dian_cluster_users`).", count(n), loginsAtOnce),
			fmt.Sprintf("Then %d users, one after the other: each logs in at one node, and as soon as the login is answered a user at the other (of one node: the same) sends a command that may wait for its receiver; measured until its ack, the median and the largest of them. Had the other node not found the user, it would be half a second and more, when the SDK tries again.", probes),
		},
	}
	one := func(name, limit string, start func() ([]*relay, error)) contestant {
		return contestant{name, limit, func() (func() (figuresOf, error), error) {
			nodes, err := start()
			if err != nil {
				return nil, err
			}
			return b.loginsOf(t, nodes, n)
		}}
	}
	b.compare(t, []contestant{
		one(oneNode, "", func() ([]*relay, error) {
			r, err := b.startRelay(false)
			return []*relay{r}, err
		}),
		one(twoNodes, oneNode, func() ([]*relay, error) {
			c, err := b.startCluster(false, 2)
			if err != nil {
				return nil, err
			}
			return c.nodes, nil
		}),
	})
}

// loginsOf starts clients of nodes and returns what measures a round with them.
func (b *bench) loginsOf(t *table, nodes []*relay, n int) (func() (figuresOf, error), error) {
	var urls []string
	for _, r := range nodes {
		urls = append(urls, r.url)
	}
	clients, tell, err := b.startTold("load-logins", strings.Join(urls, ","), b.dir)
	if err != nil {
		return nil, err
	}
	alice, err := benchClient(urls[0], b.dir, "alice", dian.WithSendOnly())
	if err != nil {
		return nil, err
	}
	b.atEnd(func() { alice.Close() })
	last := nodes[len(nodes)-1]
	return func() (figuresOf, error) {
		began := time.Now()
		fmt.Fprintln(tell, n)
		if _, err := clients.line("in"); err != nil {
			return nil, err
		}
		f := figuresOf{t.Columns[0].Name: float64(n) / time.Since(began).Seconds()}
		if began = time.Now(); len(nodes) > 1 {
			for _, r := range nodes {
				if err := r.reaches("dian_cluster_users", float64(n/len(nodes))); err != nil {
					return nil, err
				}
			}
			f[t.Columns[1].Name] = time.Since(began).Seconds() * 1e3
		}
		fmt.Fprintln(tell, "out")
		if _, err := clients.line("out"); err != nil {
			return nil, err
		}
		if len(nodes) > 1 {
			for _, r := range nodes {
				if err := r.reaches("dian_cluster_users", 0); err != nil {
					return nil, err
				}
			}
		}
		took, err := b.probes(alice, last)
		if err != nil {
			return nil, err
		}
		f[t.Columns[2].Name], _, f[t.Columns[3].Name] = spread(took)
		return f, nil
	}, nil
}

// probes has users log in at a relay, and alice send each of them a command behind that.
// It returns the milliseconds from each login to the ack.
func (b *bench) probes(alice *dian.Client, at *relay) (took []float64, err error) {
	for i := range probes {
		t, err := b.probe(alice, at, fmt.Sprintf("probe-%d-%d", time.Now().UnixNano(), i))
		if err != nil {
			return nil, fmt.Errorf("login number %d: %w", i, err)
		}
		took = append(took, t.Seconds()*1e3)
	}
	return took, nil
}

func (b *bench) probe(alice *dian.Client, at *relay, user string) (time.Duration, error) {
	folder := filepath.Join(b.dir, "probe")
	defer os.RemoveAll(folder)
	bob, err := benchClient(at.url, b.dir, user, dian.WithReceiveDir(folder), dian.WithHandler(dian.Handler{NotifyCmdData: func(dian.CmdData) {}}))
	if err != nil {
		return 0, err
	}
	defer bob.Close()
	began := time.Now()
	err = alice.SendCmd(user, make([]byte, commandBytes), dian.WithWaitForPeer(probeWait)).Wait(context.Background())
	return time.Since(began), err
}

// loadLogins logs so many users in as it is told by a line with their number, spread
// over the relays, and out when it is told "out".
func loadLogins(args []string) error { // URL,URL... FOLDER
	var loaders []*loader
	for url := range strings.SplitSeq(args[0], ",") {
		l, err := newLoader([]string{url, args[1]})
		if err != nil {
			return err
		}
		loaders = append(loaders, l)
	}
	fmt.Println("ready")
	var mu sync.Mutex
	var sessions []*loadSession
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "out" {
			var errs []error
			for _, s := range sessions {
				errs = append(errs, s.conn.Close())
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			sessions = slices.Delete(sessions, 0, len(sessions))
			fmt.Println("out")
			continue
		}
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			return err
		}
		if err := many(n, loginsAtOnce, func(i int) error {
			s, err := loaders[i%len(loaders)].login(fmt.Sprintf("comer-%d", i), fmt.Sprintf("comer-place%05d", i))
			if err != nil {
				return err
			}
			go s.live(nil)
			mu.Lock()
			defer mu.Unlock()
			sessions = append(sessions, s)
			return nil
		}); err != nil {
			return err
		}
		fmt.Println("in")
	}
	return nil
}
