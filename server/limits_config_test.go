package server

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// documentedLimits reads the table of defaults in docs/configuration.md.
func documentedLimits(t *testing.T) map[string][]string {
	t.Helper()
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(doc)) {
		if fields := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|"); len(fields) == 1+int(cells) {
			for i := range fields {
				fields[i] = strings.Trim(strings.TrimSpace(fields[i]), "`")
			}
			rows[fields[0]] = fields[1:]
		}
	}
	return rows
}

func TestDocumentedLimitsAreTheDefaults(t *testing.T) {
	rows := documentedLimits(t)
	if got := rows[""]; !reflect.DeepEqual(got, cellNames[:]) {
		t.Fatalf("the columns are %q, want %q", got, cellNames)
	}
	cfg := relayConfig()
	p := cfg.policy()
	for s, name := range scopeNames {
		row := rows["limits."+name]
		if row == nil {
			t.Errorf("no row limits.%s", name)
			continue
		}
		for c, text := range row {
			want := strconv.FormatInt(p.rows[s].most[c], 10)
			switch {
			case scope(s) == scopeApp:
				want = "as all"
				if p.rows[s].most[c] != p.rows[scopeAll].most[c] {
					t.Errorf("app's %s is %d", cellNames[c], p.rows[s].most[c])
				}
			case cell(c) == cellQueued:
				want = fmt.Sprintf("%d MiB", p.rows[s].most[c]>>20)
			}
			if text != want {
				t.Errorf("limits.%s.%s is documented as %q, want %q", name, cellNames[c], text, want)
			}
		}
	}
}

// Each cell of the table has a key and a variable.
func TestEveryCellCanBeSet(t *testing.T) {
	for s := range scopes {
		for c := range cells {
			name := scopeNames[s] + "." + cellNames[c]
			file := fmt.Appendf(nil, "limits: {%s: {%s: 400000}}", scopeNames[s], cellNames[c])
			cfg, err := noFiles().parse(file)
			src := noFiles()
			src.env = func(key string) (string, bool) {
				if key == "DIAN_LIMITS_"+strings.ToUpper(scopeNames[s]+"_"+cellNames[c]) {
					return "500000", true
				}
				return "", false
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			over, err := src.parse(file)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got, more := cfg.policy().rows[s].most[c], over.policy().rows[s].most[c]; got != 400000 || more != 500000 {
				t.Errorf("%s = %d by the file and %d by the environment", name, got, more)
			}
		}
	}
}

func TestAppsMayHaveLimitsOfTheirOwn(t *testing.T) {
	cfg := relayConfig()
	cfg.Limits.App.Sessions, cfg.Limits.User.Sessions, cfg.Limits.User.Offers = 100, 10, 5
	cfg.Apps[1].Limits = AppLimits{App: Limit{Sessions: 50}, User: Limit{Sessions: 7}}
	p := cfg.policy()
	one, two := p.apps["app"], p.apps["other"]
	for what, pair := range map[string][2]int64{
		"app":              {one.app.most[cellSessions], 100},
		"user":             {one.user.most[cellSessions], 10},
		"other app":        {two.app.most[cellSessions], 50},
		"other user":       {two.user.most[cellSessions], 7},
		"inherited":        {two.user.most[cellOffers], 5},
		"inherited of all": {two.app.most[cellTransfers], defaultLimits[scopeAll][cellTransfers]},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %d, want %d", what, pair[0], pair[1])
		}
	}
}

func TestDevServersDoNotMeasureTheirLimits(t *testing.T) {
	cfg := DevConfig()
	p := cfg.policy()
	for s := range scopes {
		if l := p.rows[s]; l.most[cellCommands] != devRate || l.most[cellLogins] != devRate ||
			s != scopeApp && l.most[cellTransfers] != defaultLimits[s][cellTransfers] {
			t.Errorf("%s: %v", scopeNames[s], l.most)
		}
	}
	cfg.Limits.User.CommandsPerSecond = 5
	if got := cfg.policy().rows[scopeUser].most[cellCommands]; got != 5 {
		t.Errorf("%d commands a second, want the 5 that were asked for", got)
	}
}

func TestPrefixesContainWhatTheyName(t *testing.T) {
	list, err := prefixes("x", []string{"192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "2001:db9::1"})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"192.0.2.1": true, "192.0.2.2": false, "10.255.0.1": true, "11.0.0.0": false,
		"2001:db8:1::1": true, "2001:db9::1": true, "2001:db9::2": false,
	} {
		if got := within(list, netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if within(list, netip.Addr{}) {
		t.Error("no address is in the list")
	}
}
