package main

import (
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian"
)

func TestMeterSaysWhatATransferDoes(t *testing.T) {
	at := time.Now()
	m := new(meter)
	for _, step := range []struct {
		after time.Duration
		state dian.TaskState
		sent  int64
		want  string
	}{
		{time.Second, dian.TaskSending, 40e6, "40.0 MB of 100.0 MB"}, // from an earlier process
		{2 * time.Second, dian.TaskSending, 50e6, "10.0 MB/s  5s left"},
		{5100 * time.Millisecond, dian.TaskSending, 50e6, "waiting"},
		{6 * time.Second, dian.TaskSending, 60e6, "/s"},
		{6 * time.Second, dian.TaskWaiting, 60e6, "waiting"},
		{7 * time.Second, dian.TaskVerifying, 100e6, "100 %  100.0 MB of 100.0 MB  checking"},
	} {
		if got := m.words(at.Add(step.after), step.state, step.sent, 100e6); !strings.Contains(got, step.want) {
			t.Errorf("after %v: %q, want %q in it", step.after, got, step.want)
		}
	}
}

func TestLongNamesKeepTheirEnd(t *testing.T) {
	for name, want := range map[string]string{
		`"photo.jpg"`: `"photo.jpg"`,
		`"/home/alice/pictures/2026/summer/photo.jpg"`: `"photo.jpg"`,
		`"` + strings.Repeat("点", 40) + `"`:            `"` + strings.Repeat("点", 25) + `…"`,
	} {
		if got := shorten(name, nameWidth); got != want {
			t.Errorf("shorten(%s) = %s, want %s", name, got, want)
		}
	}
}
