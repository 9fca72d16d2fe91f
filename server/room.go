package server

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"rsc.io/qr"
)

const (
	invitationTime  = 10 * time.Minute
	invitationsMost = 16 // that wait for somebody; a newer one displaces the oldest
	roomTokenTime   = 12 * time.Hour
)

// A Room lets the people in one room into a server of dev mode, although everybody
// knows the secret of that: Config.Room. From other machines that secret does not
// count. Who comes from there needs an invitation, which is good for one login under
// a name that nobody has, and gets a token that is signed with the room's own secret.
// A Room may be the Config's of one server after another.
type Room struct {
	key Key // nobody knows its secret

	mu      sync.Mutex
	urls    []string     // guarded by mu: where the page is
	waiting []invitation // guarded by mu, the oldest first
	used    func(user string)
}

type invitation struct {
	sum  [sha256.Size]byte // of its code: no time of a comparison tells anything about that
	ends time.Time
}

// NewRoom makes a Room with a secret of its own.
func NewRoom() *Room {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it never fails
	return &Room{key: Key{ID: "room", Algorithm: HS256, Secret: NewSecret(secret)}, used: func(string) {}}
}

// Opened tells the room where its page is, the best address first. used is called
// when somebody has come in by an invitation.
func (r *Room) Opened(urls []string, used func(user string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urls, r.used = slices.Clone(urls), used
}

// An Invitation is a link that logs one device in, once.
type Invitation struct {
	URL  string // with the code behind the #, which browsers keep to themselves
	Ends time.Time
}

// Invite makes an invitation. The error says that the room is not open.
func (r *Room) Invite() (Invitation, error) {
	code := make([]byte, 16)
	_, _ = rand.Read(code)
	text := base64.RawURLEncoding.EncodeToString(code)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.urls) == 0 {
		return Invitation{}, errors.New("no address is known that other machines could reach")
	}
	if len(r.waiting) == invitationsMost {
		r.waiting = slices.Delete(r.waiting, 0, 1)
	}
	i := invitation{sha256.Sum256([]byte(text)), time.Now().Add(invitationTime)}
	r.waiting = append(r.waiting, i)
	return Invitation{URL: r.urls[0] + "/#in=" + text, Ends: i.ends}, nil
}

// redeem uses an invitation up, and reports whether there was one.
func (r *Room) redeem(code string, now time.Time) bool {
	sum := sha256.Sum256([]byte(code))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = slices.DeleteFunc(r.waiting, func(i invitation) bool { return !now.Before(i.ends) })
	at := slices.IndexFunc(r.waiting, func(i invitation) bool { return i.sum == sum })
	if at < 0 {
		return false
	}
	r.waiting = slices.Delete(r.waiting, at, at+1)
	return true
}

// cameIn tells the program that somebody has used an invitation.
func (r *Room) cameIn(user string) {
	r.mu.Lock()
	used := r.used
	r.mu.Unlock()
	used(user)
}

// QR returns the link as a QR code: a row of 0 and 1 for each line of it, 1 for dark,
// without the quiet zone around it.
func (i Invitation) QR() ([]string, error) {
	code, err := qr.Encode(i.URL, qr.M)
	if err != nil {
		return nil, err
	}
	rows := make([]string, code.Size)
	for y := range rows {
		var row strings.Builder
		for x := range code.Size {
			if code.Black(x, y) {
				row.WriteByte('1')
			} else {
				row.WriteByte('0')
			}
		}
		rows[y] = row.String()
	}
	return rows, nil
}

// RoomURLs returns where other machines reach a listener at addr, the likeliest
// first: the addresses of this machine's networks, or the one that it listens on.
func RoomURLs(addr net.Addr, scheme string) []string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return nil
	}
	var ips []netip.Addr
	if at, _ := netip.AddrFromSlice(tcp.IP); at.IsValid() && !at.IsUnspecified() {
		ips = append(ips, at.Unmap())
	} else if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					ips = append(ips, ip.Unmap())
				}
			}
		}
	}
	ips = slices.DeleteFunc(ips, func(ip netip.Addr) bool { return ip.IsLoopback() || ip.IsLinkLocalUnicast() })
	// A home's or an office's IPv4 network is what a phone beside us is in.
	rank := func(ip netip.Addr) int {
		switch {
		case ip.Is4() && ip.IsPrivate() && !strings.HasPrefix(ip.String(), "172."): // often Docker's
			return 0
		case ip.Is4() && ip.IsPrivate():
			return 1
		case ip.Is4():
			return 2
		}
		return 3
	}
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	urls := make([]string, len(ips))
	for i, ip := range ips {
		urls[i] = scheme + "://" + netip.AddrPortFrom(ip, uint16(tcp.Port)).String()
	}
	return urls
}
