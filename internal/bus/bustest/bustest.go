// Package bustest tests that a bus keeps the promises of bus.Bus: the same table for
// every bus, so that what is tested on the one in memory holds on NATS.
package bustest

import (
	"testing"

	"github.com/dian-im/dian/internal/bus"
)

// A Cluster is what a test runs on.
type Cluster struct {
	// Open returns a new node that reaches all others. The test closes it.
	Open func(h bus.Handler) bus.Bus
	// Break takes the connection of every node away, Mend gives it back.
	Break, Mend func()
}

// Run runs every test in a cluster of its own: world makes one, calls play with it, and
// takes it down again.
func Run(t *testing.T, world func(t *testing.T, play func(t *testing.T, c Cluster))) {
	for _, test := range []struct {
		name string
		play func(t *testing.T, c Cluster)
	}{
		{"StateComesFirst", stateComesFirst},
		{"AllGetItButThePublisher", allGetItButThePublisher},
		{"OnePublishersOrderIsKept", orderIsKept},
		{"DataIsCopied", dataIsCopied},
		{"HandlerRunsAlone", handlerRunsAlone},
		{"HandlerMayUseTheBus", handlerMayUseTheBus},
		{"SecondSubscriptionIsAnError", secondSubscription},
		{"NothingComesAfterCancel", nothingAfterCancel},
		{"CancelCountsForWhatWaits", cancelCountsForWhatWaits},
		{"OldCancelDoesNothing", oldCancel},
		{"FirstAnswerCounts", firstAnswer},
		{"NobodyIsKnown", nobodyIsKnown},
		{"ContextEndsAsk", contextEndsAsk},
		{"ManyAskAtOnce", manyAsk},
		{"MaxBytesIsExact", maxBytes},
		{"BadSubjectsAreRefused", badSubjects},
		{"BreakIsTold", breakIsTold},
		{"BreakEndsAsk", breakEndsAsk},
		{"SubscriptionsOutliveABreak", subscriptionsOutliveABreak},
		{"CloseSendsWhatWasPublished", closeSends},
		{"NothingWorksAfterClose", nothingAfterClose},
		{"CloseEndsAsk", closeEndsAsk},
		{"CloseWhileBroken", closeWhileBroken},
	} {
		t.Run(test.name, func(t *testing.T) { world(t, test.play) })
	}
}
