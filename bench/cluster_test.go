package main

import "testing"

func TestMetricIsFoundByItsWholeName(t *testing.T) {
	text := "# HELP dian_cluster_users Users at other nodes.\ndian_cluster_users_total 7\ndian_cluster_users 2500\n"
	if got, err := metricIn(text, "dian_cluster_users"); err != nil || got != 2500 {
		t.Errorf("metricIn = %v, %v, want 2500", got, err)
	}
	if got, err := metricIn(text, "dian_cluster"); err == nil {
		t.Errorf("metricIn of a part of a name = %v, want an error", got)
	}
}

func TestLossSinkTellsTheHalfOnce(t *testing.T) {
	s := &lossSink{half: 10, reached: make(chan struct{})}
	for i, n := range []int{4, 5, 3, 20} { // a second close would panic
		if _, err := s.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.reached:
			if i < 2 {
				t.Errorf("half is reached with %d bytes, want 10", s.got.Load())
			}
		default:
			if i >= 2 {
				t.Errorf("half is not reached with %d bytes", s.got.Load())
			}
		}
	}
	if got := s.got.Load(); got != 32 {
		t.Errorf("counted %d bytes, want 32", got)
	}
}
