package server

import (
	"fmt"
	"net/netip"

	"github.com/dian-im/dian/internal/wire"
)

// Limits is the table of what may be used of a server at a time. A zero cell has
// the default that docs/configuration.md names; there is no "unlimited", because
// a 0 that means it was a hole elsewhere (case 49).
type Limits struct {
	All     Limit // the whole server
	App     Limit // each app; a zero cell is that of All
	Address Limit // each client address, IPv6 by /64
	User    Limit // each user

	// SharedAddresses are addresses or CIDRs behind which many people sit, such
	// as a hospital's NAT: Address does not count for them.
	SharedAddresses []string
}

// Limit is one row of Limits. Of a rate up to 5 seconds' worth may come at once.
type Limit struct {
	Sessions          int   // live ones; there may be twice as many connections
	LoginsPerSecond   int   // also requests whose token turns out to be bad
	CommandsPerSecond int   // commands, offers and requests; a question counts ten times
	Transfers         int   // that have not ended; of a user as many sent, and as many received
	Offers            int   // of these, not answered yet
	QueuedBytes       int64 // that wait for slow sessions; of a user as many in commands without result
}

// AppLimits are the rows that an app may have of its own. A zero cell is that of
// Config.Limits.
type AppLimits struct{ App, User Limit }

// A cell is a column of the table, a scope a row.
type cell uint8

const (
	cellSessions cell = iota
	cellLogins
	cellCommands
	cellTransfers
	cellOffers
	cellQueued
	cells
)

type scope uint8

const (
	scopeAll scope = iota
	scopeApp
	scopeAddress
	scopeUser
	scopes
)

// The names of the table's columns and rows in the config file and in metrics.
var (
	cellNames  = [cells]string{"sessions", "logins_per_second", "commands_per_second", "transfers", "offers", "queued_bytes"}
	scopeNames = [scopes]string{"all", "app", "address", "user"}
)

// defaultLimits are sized for a small machine with two cores, and so that 5,000
// people behind one address notice nothing; docs/operations.md has the memory that
// they cost. App's row is that of all.
var defaultLimits = [scopes]row{
	scopeAll:     {16_000, 2000, 100_000, 5000, 4000, 128 << 20},
	scopeAddress: {12_000, 1000, 20_000, 3750, 3000, 96 << 20},
	scopeUser:    {64, 20, 2000, 512, 512, 8 << 20},
}

// In dev mode only the own machine connects, to try things out and to measure
// them: rates would be in the way.
const devRate = 1_000_000

// largest bounds what may be written in a cell.
var largest = row{100_000_000, devRate, 1_000_000_000, 100_000_000, 100_000_000, 1 << 40}

// A row is a row of the table in the order of its cells.
type row [cells]int64

func (l Limit) row() row {
	return row{int64(l.Sessions), int64(l.LoginsPerSecond), int64(l.CommandsPerSecond),
		int64(l.Transfers), int64(l.Offers), l.QueuedBytes}
}

// or returns r with its zero cells as in other.
func (r row) or(other row) row {
	for c, v := range r {
		if v == 0 {
			r[c] = other[c]
		}
	}
	return r
}

// check checks a row of the config at a place such as limits.user.
func (r row) check(at string) error {
	for c, v := range r {
		c := cell(c)
		least := int64(1)
		if c == cellQueued {
			least = wire.MessageBytes // one message must fit
		}
		if v != 0 && (v < least || v > largest[c]) {
			return fmt.Errorf("%s.%s: %d is out of range; use %d to %d, or leave it away for its default", at, cellNames[c], v, least, largest[c])
		}
	}
	return nil
}

// checkLimits checks the table, the apps' own rows and the lists of addresses.
func (c *Config) checkLimits() error {
	for s, l := range [scopes]Limit{c.Limits.All, c.Limits.App, c.Limits.Address, c.Limits.User} {
		if err := l.row().check("limits." + scopeNames[s]); err != nil {
			return err
		}
	}
	for i, app := range c.Apps {
		at := fmt.Sprintf("apps[%d].limits.", i)
		if err := app.Limits.App.row().check(at + "app"); err != nil {
			return err
		}
		if err := app.Limits.User.row().check(at + "user"); err != nil {
			return err
		}
	}
	if _, err := prefixes("limits.shared_addresses", c.Limits.SharedAddresses); err != nil {
		return err
	}
	if _, err := prefixes("trusted_proxies", c.TrustedProxies); err != nil {
		return err
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		return fmt.Errorf("proxy_protocol: nobody may speak it; list the proxies in trusted_proxies")
	}
	return nil
}

// prefixes reads a list of addresses and CIDRs.
func prefixes(at string, list []string) ([]netip.Prefix, error) {
	all := make([]netip.Prefix, 0, len(list))
	for i, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(text); err == nil {
				p = netip.PrefixFrom(a, a.BitLen())
			}
		}
		switch {
		case err != nil || p.Addr().Zone() != "":
			return nil, fmt.Errorf("%s[%d]: write an address like 192.0.2.1 or a range like 10.0.0.0/8 or 2001:db8::/32", at, i)
		case p.Bits() == 0:
			return nil, fmt.Errorf("%s[%d]: this is everybody; name those you mean", at, i)
		case p != p.Masked():
			return nil, fmt.Errorf("%s[%d]: the address has more bits than its range; write %v", at, i, p.Masked())
		case p.Addr().Is4In6():
			return nil, fmt.Errorf("%s[%d]: write it as an IPv4 address", at, i)
		}
		all = append(all, p)
	}
	return all, nil
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// A policy is the limits of now in the form in which they are asked for. It does
// not change; Reload puts another one in its place.
type policy struct {
	rows            [scopes]limits // of scopeApp and scopeUser: those of apps without their own
	apps            map[string]appLimits
	trusted, shared []netip.Prefix
}

// appLimits are the two rows that belong to an app.
type appLimits struct{ app, user limits }

// limits are a row with its rates.
type limits struct {
	most             row
	logins, commands rate
}

func (r row) limits() limits {
	return limits{r, perSecond(r[cellLogins]), perSecond(r[cellCommands])}
}

// policy makes the limits of a checked Config.
func (c *Config) policy() *policy {
	defaults := defaultLimits
	if c.Dev {
		for s := range defaults {
			defaults[s][cellLogins], defaults[s][cellCommands] = devRate, devRate
		}
	}
	l := &c.Limits
	all := l.All.row().or(defaults[scopeAll])
	app := l.App.row().or(all)
	user := l.User.row().or(defaults[scopeUser])
	p := &policy{
		rows: [scopes]limits{
			scopeAll: all.limits(), scopeApp: app.limits(), scopeUser: user.limits(),
			scopeAddress: l.Address.row().or(defaults[scopeAddress]).limits(),
		},
		apps: map[string]appLimits{},
	}
	for _, a := range c.Apps {
		p.apps[a.ID] = appLimits{a.Limits.App.row().or(app).limits(), a.Limits.User.row().or(user).limits()}
	}
	p.trusted, _ = prefixes("", c.TrustedProxies) // Check has read them
	p.shared, _ = prefixes("", l.SharedAddresses)
	return p
}

// limitsFile is the file form of Limits.
type limitsFile struct {
	All             limitFile `yaml:"all"`
	App             limitFile `yaml:"app"`
	Address         limitFile `yaml:"address"`
	User            limitFile `yaml:"user"`
	SharedAddresses []string  `yaml:"shared_addresses"`
}

type limitFile struct {
	Sessions          int      `yaml:"sessions"`
	LoginsPerSecond   int      `yaml:"logins_per_second"`
	CommandsPerSecond int      `yaml:"commands_per_second"`
	Transfers         int      `yaml:"transfers"`
	Offers            int      `yaml:"offers"`
	QueuedBytes       byteSize `yaml:"queued_bytes"`
}

type appLimitsFile struct {
	App  limitFile `yaml:"app"`
	User limitFile `yaml:"user"`
}

func (f limitFile) limit() Limit {
	return Limit{f.Sessions, f.LoginsPerSecond, f.CommandsPerSecond, f.Transfers, f.Offers, int64(f.QueuedBytes)}
}

func (f appLimitsFile) limits() AppLimits { return AppLimits{f.App.limit(), f.User.limit()} }

func (f limitsFile) limits() Limits {
	return Limits{
		All: f.All.limit(), App: f.App.limit(), Address: f.Address.limit(), User: f.User.limit(),
		SharedAddresses: f.SharedAddresses,
	}
}
