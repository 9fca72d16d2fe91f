package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A table is what one measurement found.
type table struct {
	Name     string    `json:"name"`
	Title    string    `json:"title"`
	Notes    []string  `json:"notes"` // what was measured how, and how the contestants were set up
	Measured time.Time `json:"measured"`
	Dian     string    `json:"dian"` // the commit
	Rounds   int       `json:"rounds"`
	Columns  []column  `json:"columns"`
	Rows     []*row    `json:"rows"`
	Cold     bool      `json:"cold,omitempty"` // each round starts anew: there is nothing to warm up
}

// A column is one figure.
type column struct {
	Name string `json:"name"` // with its unit
	// Ratio is the heading under which the figure is shown as a ratio to that of
	// the row's limit, too. Empty: it is not.
	Ratio string `json:"ratio,omitempty"`
}

// A row is a contestant and its figures, round by round.
type row struct {
	Name    string               `json:"name"`
	Limit   string               `json:"limit,omitempty"`   // the row that its ratios are to
	Missing string               `json:"missing,omitempty"` // why there are no figures
	Figures map[string][]float64 `json:"figures,omitempty"` // by column
}

// figuresOf are one contestant's in one round, by column.
type figuresOf map[string]float64

// A contestant measures itself once in every round.
type contestant struct {
	name  string
	limit string
	// setup starts what serves all rounds, and returns what measures one.
	setup func() (round func() (figuresOf, error), err error)
}

// A missing program is no failure: the row says so.
type missing string

func (m missing) Error() string { return "not measured: " + string(m) }

// compare runs the contestants side by side: all of them in every round, each round
// beginning with another one. The first round warms up and does not count. Who fails
// gets a row that says so, and the others go on.
func (b *bench) compare(t *table, contestants []contestant) {
	contestants = slices.DeleteFunc(contestants, func(c contestant) bool { return !b.who.MatchString(c.name) })
	t.Measured = time.Now().UTC().Truncate(time.Second)
	if t.Rounds == 0 {
		t.Rounds = b.rounds
	}
	fmt.Printf("\n%s: %s\n", t.Title, plural(t.Rounds, "round"))
	rounds := make([]func() (figuresOf, error), len(contestants))
	fail := func(r *row, err error) {
		var absent missing
		r.Missing, r.Figures = strings.Join(strings.Fields(err.Error()), " "), nil
		if !errors.As(err, &absent) {
			r.Missing = "failed: " + r.Missing
			b.failed = true
		}
		fmt.Printf("  %s: %s\n", r.Name, r.Missing)
	}
	for i, c := range contestants {
		r := &row{Name: c.name, Limit: c.limit, Figures: map[string][]float64{}}
		t.Rows = append(t.Rows, r)
		var err error
		if rounds[i], err = c.setup(); err != nil {
			fail(r, err)
		}
	}
	first := 0
	if t.Cold {
		first = 1
	}
	for n := first; n <= t.Rounds; n++ {
		for i := range contestants {
			i = (i + n) % len(contestants)
			r := t.Rows[i]
			if r.Missing != "" {
				continue
			}
			figures, err := rounds[i]()
			if err != nil {
				fail(r, err)
				continue
			}
			if n == 0 {
				continue
			}
			for name, v := range figures {
				r.Figures[name] = append(r.Figures[name], v)
			}
		}
		fmt.Printf("  round %d done\n", n)
	}
	fmt.Print("\n", t.markdown())
	b.report.measured(t)
}

// row is the one with the name.
func (t *table) row(name string) *row {
	for _, r := range t.Rows {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// ratios are the row's figures divided by its limit's of the same rounds; nil if
// one of the two has none.
func (t *table) ratios(r *row, column string) []float64 {
	limit := t.row(r.Limit)
	if limit == nil || len(limit.Figures[column]) != len(r.Figures[column]) {
		return nil
	}
	var ratios []float64
	for i, v := range r.Figures[column] {
		ratios = append(ratios, v/limit.Figures[column][i])
	}
	return ratios
}

// markdown is the table as the docs show it.
func (t *table) markdown() string {
	var s strings.Builder
	heads := []string{""}
	for _, c := range t.Columns {
		heads = append(heads, c.Name)
		if c.Ratio != "" {
			heads = append(heads, c.Ratio)
		}
	}
	fmt.Fprintf(&s, "| %s |\n|%s\n", strings.Join(heads, " | "), strings.Repeat("---|", len(heads)))
	for _, r := range t.Rows {
		if r.Missing != "" {
			fmt.Fprintf(&s, "| %s | %s |%s\n", r.Name, strings.ReplaceAll(r.Missing, "|", `\|`), strings.Repeat(" |", len(heads)-2))
			continue
		}
		cells := []string{r.Name}
		for _, c := range t.Columns {
			cells = append(cells, cell(r.Figures[c.Name]))
			if c.Ratio != "" {
				cells = append(cells, cell(t.ratios(r, c.Name)))
			}
		}
		fmt.Fprintf(&s, "| %s |\n", strings.Join(cells, " | "))
	}
	return s.String()
}

// cell is median and range.
func cell(values []float64) string {
	if len(values) == 0 {
		return ""
	}
	mid, low, high := spread(values)
	if len(values) == 1 {
		return number(mid)
	}
	return fmt.Sprintf("%s (%s–%s)", number(mid), number(low), number(high))
}

// number has three digits or more, and commas where they help.
func number(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return count(int(math.Round(v)))
}

// count is a whole number with commas.
func count(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
