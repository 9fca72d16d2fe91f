// Package page has the web page of the relay, as it is built from web/ and
// committed (make web), and serves it with the headers that keep it what it is.
package page

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed dist
var dist embed.FS

// Policy is the page's Content-Security-Policy (cases 115 and 120). Scripts and
// styles come from files of ours alone; WebAssembly is what computes digests, and a
// worker has the policy of its own file. What the page makes of received content
// can at most be an image. connect-src 'self' covers ws: and wss: of the same host.
const Policy = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; " +
	"connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types default"

// types are the kinds of files that there are; another one is a mistake of the build.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

// A file is one file of the page.
type file struct {
	data []byte
	kind string // Content-Type
	etag string
	name string // ends in a hash of the content if it lies in assets/
}

var files = sync.OnceValue(func() map[string]*file {
	all := make(map[string]*file)
	err := fs.WalkDir(dist, "dist", func(at string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := dist.ReadFile(at)
		if err != nil {
			return err
		}
		kind, ok := types[path.Ext(at)]
		if !ok {
			return fmt.Errorf("%s: no type is known for it", at)
		}
		sum := sha256.Sum256(data)
		name := strings.TrimPrefix(at, "dist/")
		all[name] = &file{data, kind, `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, name}
		return nil
	})
	if err != nil {
		panic("page: " + err.Error())
	}
	return all
})

// Routes are the patterns of http.ServeMux that Handler answers.
func Routes() []string {
	routes := []string{"GET /{$}"}
	for name := range files() {
		if name != "index.html" {
			routes = append(routes, "GET /"+name)
		}
	}
	return routes
}

// Handler serves the page. It knows no other paths than those of Routes.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if name == "" {
			name = "index.html"
		}
		f := files()[name]
		if f == nil {
			http.NotFound(w, r)
			return
		}
		f.serve(w, r)
	})
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", Policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=(), screen-wake-lock=(self)")
	h.Set("Content-Type", f.kind)
	if strings.HasPrefix(f.name, "assets/") {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else { // it names the assets of this build
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", f.etag)
		if r.Header.Get("If-None-Match") == f.etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	h.Set("Content-Length", fmt.Sprint(len(f.data)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(f.data) // a client that has gone away is no error of ours
	}
}
