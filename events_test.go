package dian

import (
	"slices"
	"testing"
	"testing/synctest"
)

// What is called while the reader holds begins at release, in its order; callbacks that
// run already are not held up.
func TestHeldCallbacksBeginAtRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		var did []int
		add := func(of any) { did = append(did, of.(int)) }
		e.hold()
		e.call(add, 1)
		e.call(add, 2)
		synctest.Wait()
		if len(did) > 0 {
			t.Errorf("while it is held %v were called", did)
		}
		e.release()
		synctest.Wait()
		if want := []int{1, 2}; !slices.Equal(did, want) {
			t.Errorf("after release %v were called, want %v", did, want)
		}

		busy := make(chan struct{})
		e.notify(func() { <-busy })
		synctest.Wait()
		e.hold()
		e.call(add, 3)
		close(busy)
		synctest.Wait()
		if want := []int{1, 2, 3}; !slices.Equal(did, want) {
			t.Errorf("behind a callback that ran before: %v, want %v", did, want)
		}
		e.release()
		e.wait()
	})
}

// What is held is still to come: wait does not take it for nothing.
func TestWaitForHeldCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		called, waited := false, false
		e.hold()
		e.notify(func() { called = true })
		go func() {
			e.wait()
			waited = called
		}()
		synctest.Wait()
		if called {
			t.Fatal("called while it is held")
		}
		e.release()
		synctest.Wait()
		if !waited {
			t.Error("wait returned before the callback, or not at all")
		}
	})
}
