package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// A link is a bad network: a proxy that carries bytes late, slowly and with stalls. Each
// direction has the rate for itself. Connections share it fairly, as behind a router
// with fair queues: each has one piece of linkPiece bytes at the bottleneck, while the
// sender's own queue is in its kernel. What is on its way is bounded by rate × delay.
// TCP's own congestion control does not see it, because nothing is lost.
type link struct {
	linkKind
	began    time.Time
	up, down direction
}

// A linkKind is what a link is like.
type linkKind struct {
	name       string
	rate       float64       // bytes a second, each way
	roundTrip  time.Duration // half of it each way
	stall      time.Duration // it carries nothing for so long,
	stallEvery time.Duration // each time after so long; 0: never
}

// linkPiece is what a connection has at the bottleneck.
const linkPiece = 4 << 10

// linkBuffer is what the proxy's kernel takes from a sender before its turn.
const linkBuffer = 32 << 10

// A direction is when the bottleneck is free again.
type direction struct {
	mu   sync.Mutex
	free time.Time
}

// pass takes the bottleneck for n bytes and returns when they are through.
func (l *link) pass(d *direction, n int) time.Time {
	d.mu.Lock()
	now := time.Now()
	if d.free.Before(now.Add(-5 * time.Millisecond)) { // a sleep that took too long does not cost rate
		d.free = now
	}
	if l.stallEvery > 0 {
		at := d.free.Sub(l.began) % (l.stallEvery + l.stall)
		if at >= l.stallEvery {
			d.free = d.free.Add(l.stallEvery + l.stall - at)
		}
	}
	d.free = d.free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	through := d.free
	d.mu.Unlock()
	time.Sleep(time.Until(through))
	return through
}

// share is what the link can carry of its rate.
func (l linkKind) share() float64 {
	if l.stallEvery == 0 {
		return 1
	}
	return 1 - l.stall.Seconds()/(l.stall+l.stallEvery).Seconds()
}

// linkProxy carries connections to TARGET over a link.
func linkProxy(args []string) error { // ADDRESS TARGET RATE ROUNDTRIP STALL EVERY
	l := &link{began: time.Now()}
	var err error
	if l.rate, err = strconv.ParseFloat(args[2], 64); err != nil {
		return err
	}
	for i, d := range []*time.Duration{&l.roundTrip, &l.stall, &l.stallEvery} {
		if *d, err = time.ParseDuration(args[3+i]); err != nil {
			return err
		}
	}
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		near, err := ln.Accept()
		if err != nil {
			return err
		}
		go l.carry(near, args[1])
	}
}

// carry joins a connection with one to the target; opening takes a round trip.
func (l *link) carry(near net.Conn, target string) {
	defer near.Close()
	time.Sleep(l.roundTrip)
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	if errors.Join(near.(*net.TCPConn).SetReadBuffer(linkBuffer), far.(*net.TCPConn).SetReadBuffer(linkBuffer)) != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { l.oneWay(far, near, &l.up) })
	both.Go(func() { l.oneWay(near, far, &l.down) })
	both.Wait()
}

// A piece is on its way until due.
type piece struct {
	data []byte
	due  time.Time
}

// oneWay reads pieces, has them pass the bottleneck, and writes them when they arrive.
func (l *link) oneWay(to, from net.Conn, d *direction) {
	most := int(l.rate*l.roundTrip.Seconds())/linkPiece + 16
	way := make(chan piece, most)
	var writing sync.WaitGroup
	writing.Go(func() {
		for p := range way {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				from.Close() // the reader ends, too
			}
		}
		_ = to.(*net.TCPConn).CloseWrite()
	})
	for {
		data := make([]byte, linkPiece)
		n, err := from.Read(data)
		if n > 0 {
			way <- piece{data[:n], l.pass(d, n).Add(l.roundTrip / 2)}
		}
		if err != nil {
			break
		}
	}
	close(way)
	writing.Wait()
}

// startLink starts a proxy to addr and returns its address.
func (b *bench) startLink(l linkKind, addr string) (string, error) {
	at, err := freeAddress()
	if err != nil {
		return "", err
	}
	_, err = b.startPart("link", at, addr, fmt.Sprint(l.rate), l.roundTrip.String(), l.stall.String(), l.stallEvery.String())
	return at, err
}
