package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A report is all tables of a machine.
type report struct {
	Machine  string   `json:"machine"`
	Versions []string `json:"versions"`
	Tables   []*table `json:"tables"`

	commit string // what of Dian this run measures
}

// measured adds a table of this run.
func (r *report) measured(t *table) {
	t.Dian = r.commit
	r.add(t)
}

// add puts the table into the place of an older one with its name, or behind all.
func (r *report) add(t *table) {
	for i, old := range r.Tables {
		if old.Name == t.Name {
			r.Tables[i] = t
			return
		}
	}
	r.Tables = append(r.Tables, t)
}

// A page is a part of the docs with tables of its own.
type page struct {
	file    string // without its ending
	command string // what writes it
	plot    bool   // it has one
	holds   func(*table) bool
}

func isCluster(t *table) bool { return strings.HasPrefix(t.Name, clusterPrefix) }

var pages = []page{
	{"performance", "make bench", true, func(t *table) bool { return !isCluster(t) }},
	{"performance-cluster", "make bench-cluster", false, isCluster},
}

// begin is the line behind which the page's tables stand.
func (p page) begin() string {
	return fmt.Sprintf("<!-- bench:begin: %s writes what stands between the two lines -->", p.command)
}

const tablesEnd = "<!-- bench:end -->"

// write rewrites those pages of the docs for which there are tables.
func (r *report) write(docs string) error {
	for _, p := range pages {
		part := *r
		part.Tables = slices.DeleteFunc(slices.Clone(r.Tables), func(t *table) bool { return !p.holds(t) })
		if len(part.Tables) == 0 {
			continue
		}
		if err := part.writePage(docs, p); err != nil {
			return err
		}
	}
	return nil
}

// writePage rewrites a page. Tables that an earlier run on such a machine has left in
// its JSON file stay, unless this one has measured them anew.
func (r *report) writePage(docs string, p page) error {
	whole := *r
	path := filepath.Join(docs, p.file+".json")
	text, err := os.ReadFile(path)
	if err == nil {
		var old report
		if err := json.Unmarshal(text, &old); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if old.Machine == r.Machine {
			whole.Tables = old.Tables
			for _, t := range r.Tables {
				whole.add(t)
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if text, err = json.MarshalIndent(whole, "", " "); err != nil {
		return err
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if p.plot {
		if err := os.WriteFile(filepath.Join(docs, p.file+".svg"), []byte(whole.plot()), 0o644); err != nil {
			return err
		}
	}
	path = filepath.Join(docs, p.file+".md")
	if text, err = os.ReadFile(path); err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), p.begin())
	_, after, ended := strings.Cut(rest, tablesEnd)
	if !found || !ended {
		return fmt.Errorf("%s has not the two lines between which tables stand:\n%s\n%s", path, p.begin(), tablesEnd)
	}
	return os.WriteFile(path, []byte(before+p.begin()+"\n\n"+whole.markdown(p)+"\n"+tablesEnd+after), 0o644)
}

// markdown is the part of the docs that the program writes.
func (r *report) markdown(p page) string {
	var s strings.Builder
	fmt.Fprintf(&s, "Machine: %s. Versions: %s.\n", r.Machine, strings.Join(r.Versions, ", "))
	if p.plot {
		fmt.Fprintf(&s, "\n![Each contestant beside its limit](%s.svg)\n", p.file)
	}
	for _, t := range r.Tables {
		fmt.Fprintf(&s, "\n### %s\n\n%s\n%s, %s, Dian %s.\n", t.Title, t.markdown(), t.Measured.Format("2006-01-02 15:04 MST"), plural(t.Rounds, "round"), t.Dian)
		for _, n := range t.Notes {
			fmt.Fprintf(&s, "\n- %s", n)
		}
		s.WriteString("\n")
	}
	return s.String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
