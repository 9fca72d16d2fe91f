package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// plotted are the figures that the plot shows, each as a ratio to its limit.
var plotted = []struct{ table, column, title string }{
	{"bulk", "MB/s", "Bulk: rate ÷ that of a bare relay (more is better)"},
	{"commands", "256 in flight, answers/s", "Commands, 256 in flight: rate ÷ that of an echo (more is better)"},
	{"commands", "one in flight, p50, µs", "Commands, one in flight: time ÷ that of an echo (less is better)"},
}

const (
	plotWidth = 760
	plotLeft  = 190 // where bars begin
	plotRight = 640 // where the longest may end; figures stand behind it
	plotRow   = 22
)

// plot draws bars of medians, with whiskers for ranges.
func (r *report) plot() string {
	var body strings.Builder
	y := 10
	for _, p := range plotted {
		for _, t := range r.Tables {
			if t.Name == p.table {
				y = t.panel(&body, p.column, p.title, y)
			}
		}
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="Dian and its peers, each beside its limit">
<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px }
.note { fill: #59636e; font-size: 12px }
.bar { fill: #9aa7b4 }
.dian { fill: #0969da }
.whisker { stroke: #1f2328; stroke-width: 1.5; fill: none }
.limit { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.note { fill: #9198a1 }
.bar { fill: #5c6874 }
.dian { fill: #4493f8 }
.whisker { stroke: #e6edf3 }
.limit { stroke: #ff7b72 }
}
</style>
%s</svg>
`, plotWidth, y, plotWidth, y, body.String())
}

// panel draws one figure of a table below y and returns where it ends.
func (t *table) panel(s *strings.Builder, column, title string, y int) int {
	largest := 1.0
	for _, r := range t.Rows {
		if ratios := t.ratios(r, column); ratios != nil {
			_, _, high := spread(ratios)
			largest = math.Max(largest, high)
		}
	}
	x := func(ratio float64) float64 { return plotLeft + ratio/largest*(plotRight-plotLeft) }
	y += 20
	fmt.Fprintf(s, "<text class=\"title\" x=\"10\" y=\"%d\">%s</text>\n", y, html.EscapeString(title))
	y += 12
	top := y
	for _, r := range t.Rows {
		if r.Limit == "" {
			continue
		}
		name := fmt.Sprintf("<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", plotLeft-8, y+15, html.EscapeString(r.Name))
		ratios := t.ratios(r, column)
		if ratios == nil {
			fmt.Fprintf(s, "%s<text class=\"note\" x=\"%d\" y=\"%d\">no figures: see the table</text>\n", name, plotLeft+6, y+15)
			y += plotRow
			continue
		}
		mid, low, high := spread(ratios)
		class := "bar"
		if strings.HasPrefix(r.Name, "Dian") {
			class = "dian"
		}
		middle := float64(y) + plotRow/2
		fmt.Fprintf(s, "%s<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>\n", name, class, plotLeft, y+3, x(mid)-plotLeft, plotRow-6)
		fmt.Fprintf(s, "<path class=\"whisker\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8\"/>\n", x(low), middle, x(high), x(low), middle-4, x(high), middle-4)
		fmt.Fprintf(s, "<text class=\"note\" x=\"%d\" y=\"%d\">%s</text>\n", plotRight+8, y+15, cell(ratios))
		y += plotRow
	}
	fmt.Fprintf(s, "<path class=\"limit\" d=\"M%.1f %dV%d\"/>\n", x(1), top, y)
	fmt.Fprintf(s, "<text class=\"note\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">limit = 1</text>\n", x(1), y+13)
	return y + 24
}
