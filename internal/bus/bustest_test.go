package bus_test

import (
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/dian-im/dian/internal/bus"
	"github.com/dian-im/dian/internal/bus/bustest"
)

func TestMemKeepsThePromises(t *testing.T) {
	bustest.Run(t, func(t *testing.T, play func(*testing.T, bustest.Cluster)) {
		synctest.Test(t, func(t *testing.T) {
			mem := bus.NewMem()
			var names []string
			broken := false
			play(t, bustest.Cluster{
				Open: func(h bus.Handler) bus.Bus {
					name := strconv.Itoa(len(names))
					names = append(names, name)
					if broken {
						mem.Cut(name)
					}
					return mem.Open(name, h)
				},
				Break: func() {
					broken = true
					for _, name := range names {
						mem.Cut(name)
					}
				},
				Mend: func() {
					broken = false
					for _, name := range names {
						mem.Heal(name)
					}
				},
			})
		})
	})
}
