package dian

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dian-im/dian/internal/unsent"
)

// The kernel takes little of an up-lane that it cannot send yet: a thousand of them
// would fill the memory that it has for all of TCP (case 47).
func TestLanesBoundWhatIsUnsent(t *testing.T) {
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for name, start := range map[string]func(http.Handler) *httptest.Server{"TCP": httptest.NewServer, "TLS": httptest.NewTLSServer} {
		t.Run(name, func(t *testing.T) {
			srv := start(ok)
			defer srv.Close()
			var conn net.Conn
			transport := srv.Client().Transport.(*http.Transport).Clone()
			transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				var err error
				conn, err = new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
				return conn, err
			}
			laneDials(transport, new(ahead))
			resp, err := (&http.Client{Transport: transport}).Get(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			raw, err := conn.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var n int
			if failed := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) }); failed != nil || err != nil {
				t.Fatal(failed, err)
			}
			if n != unsent.Most {
				t.Errorf("the kernel may take %d bytes, want %d", n, unsent.Most)
			}
		})
	}
}
