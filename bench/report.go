package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A report is all tables of a machine.
type report struct {
	Machine  string   `json:"machine"`
	Versions []string `json:"versions"`
	Tables   []*table `json:"tables"`
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

const (
	tablesBegin = "<!-- bench:begin: make bench writes what stands between the two lines -->"
	tablesEnd   = "<!-- bench:end -->"
)

// write rewrites the docs. Tables that an earlier run on such a machine has left in
// performance.json stay, unless this one has measured them anew.
func (r *report) write(docs string) error {
	whole := *r
	path := filepath.Join(docs, "performance.json")
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
	if err := os.WriteFile(filepath.Join(docs, "performance.svg"), []byte(whole.plot()), 0o644); err != nil {
		return err
	}
	path = filepath.Join(docs, "performance.md")
	if text, err = os.ReadFile(path); err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), tablesBegin)
	_, after, ended := strings.Cut(rest, tablesEnd)
	if !found || !ended {
		return fmt.Errorf("%s has not the two lines between which tables stand:\n%s\n%s", path, tablesBegin, tablesEnd)
	}
	return os.WriteFile(path, []byte(before+tablesBegin+"\n\n"+whole.markdown()+"\n"+tablesEnd+after), 0o644)
}

// markdown is the part of the docs that the program writes.
func (r *report) markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "Machine: %s. Versions: %s.\n\n", r.Machine, strings.Join(r.Versions, ", "))
	s.WriteString("![Each contestant beside its limit](performance.svg)\n")
	for _, t := range r.Tables {
		fmt.Fprintf(&s, "\n### %s\n\n%s\n%s, %s.\n", t.Title, t.markdown(), t.Measured.Format("2006-01-02 15:04 MST"), plural(t.Rounds, "round"))
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
