package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// measured is a table of one row with one figure.
func measured(name string, figure float64) *table {
	return &table{
		Name: name, Title: "Title of " + name, Rounds: 1, Columns: []column{{Name: "speed"}},
		Rows: []*row{{Name: "Dian", Figures: map[string][]float64{"speed": {figure}}}},
	}
}

// docsWithPages is a folder with a page of each kind and nothing measured.
func docsWithPages(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range pages {
		text := "before\n" + p.begin() + "\nold\n" + tablesEnd + "\nbehind\n"
		if err := os.WriteFile(filepath.Join(dir, p.file+".md"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTablesGoToTheirPage(t *testing.T) {
	dir := docsWithPages(t)
	before := read(t, dir, "performance.md")
	r := &report{Machine: "a machine", Tables: []*table{measured("cluster-bus", 2)}}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, "performance.md"); got != before {
		t.Errorf("the other page was rewritten:\n%s", got)
	}
	got := read(t, dir, "performance-cluster.md")
	for _, want := range []string{"before\n" + pages[1].begin(), "### Title of cluster-bus", "| Dian | 2.00 |", tablesEnd + "\nbehind\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the page has not %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "old") || strings.Contains(got, ".svg") {
		t.Errorf("the page has more than it should:\n%s", got)
	}
}

func TestTablesOfAnEarlierRunStay(t *testing.T) {
	dir := docsWithPages(t)
	for commit, tables := range [][]*table{
		{measured("commands", 1), measured("cluster-bus", 2), measured("cluster-lanes", 3)},
		{measured("cluster-bus", 4)},
	} {
		r := &report{Machine: "a machine", commit: fmt.Sprint("c", commit)}
		for _, table := range tables {
			r.measured(table)
		}
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	got := regexp.MustCompile(`\| Dian \| \S+ \||Dian c\d`).FindAllString(read(t, dir, "performance-cluster.md"), -1)
	if want := "| Dian | 4.00 |, Dian c1, | Dian | 3.00 |, Dian c0"; strings.Join(got, ", ") != want {
		t.Errorf("rows %q, want %q: each table names the commit that it measured", got, want)
	}
	if got := read(t, dir, "performance.md"); !strings.Contains(got, "| Dian | 1.00 |") || !strings.Contains(got, "performance.svg") {
		t.Errorf("the other page has not its table and plot:\n%s", got)
	}
}
