package dian

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"
)

// Defaults of the options.
const (
	defaultCommandTimeout  = 60 * time.Second
	defaultResumeWindow    = 2 * time.Minute
	defaultParallel        = 4
	defaultParallelReceive = 16
)

// options are what Connect was given; only read after it.
type options struct {
	handler         Handler
	token           string // the first one; Client.token is the present one
	tokenSource     func(context.Context) (string, error)
	sendOnly        bool
	tls             *tls.Config
	httpClient      *http.Client
	log             *slog.Logger
	receiveDir      string        // "" for the default
	resumeWindow    time.Duration // 0: the server's
	parallel        int
	parallelReceive int
	ackHandled      bool
	commandTimeout  time.Duration
	clientName      string
}

func newOptions(list []Option) options {
	o := options{
		log:             slog.New(slog.DiscardHandler),
		parallel:        defaultParallel,
		parallelReceive: defaultParallelReceive,
		commandTimeout:  defaultCommandTimeout,
		clientName:      "dian-go",
	}
	for _, set := range list {
		set(&o)
	}
	if o.handler.HandleCmd != nil {
		o.ackHandled = true
	}
	return o
}

// An Option changes how Connect makes a client. A token or a token source is
// needed; everything else has a good default.
type Option func(*options)

// WithToken gives the token to log in with: a JWT, see docs/protocol.md §3. When
// it expires the line is off for good (18) unless UpdateToken came before.
func WithToken(token string) Option { return func(o *options) { o.token = token } }

// WithTokenSource gives a function that is asked for a token before each login
// and shortly before a token expires. It is called by one goroutine at a time and
// should return when its context ends, after which nobody waits for it. Its error
// fails Connect with 7; later it is asked again at the next try.
func WithTokenSource(source func(context.Context) (string, error)) Option {
	return func(o *options) { o.tokenSource = source }
}

// WithHandler says what to call back.
func WithHandler(h Handler) Option { return func(o *options) { o.handler = h } }

// WithSendOnly logs in without taking the user's place: the client sends and
// gets results, cannot be addressed and kicks nobody.
func WithSendOnly() Option { return func(o *options) { o.sendOnly = true } }

// WithTLSConfig sets the TLS configuration of session and lanes: a private CA,
// client certificates. It is copied. It goes before that of WithHTTPClient.
func WithTLSConfig(c *tls.Config) Option { return func(o *options) { o.tls = c } }

// WithHTTPClient gives the HTTP client whose transport settings session and lanes
// use: if its Transport is an *http.Transport its proxy, dial and TLS settings
// (DialContext, DialTLSContext, Proxy, TLSClientConfig) are copied; any other
// Transport carries the lanes as it is, and the session uses the defaults. Its
// Timeout and CheckRedirect are not used. The default honours HTTPS_PROXY,
// HTTP_PROXY and NO_PROXY.
func WithHTTPClient(c *http.Client) Option { return func(o *options) { o.httpClient = c } }

// WithLogger says where to log; nothing is logged by default. Ids, codes and
// sizes are logged, never content, tokens or file names.
func WithLogger(l *slog.Logger) Option {
	return func(o *options) {
		if l != nil {
			o.log = l
		}
	}
}

// WithReceiveDir names the folder in which received files and what is known of
// them are kept. It belongs to one listening client at a time. Its default lies
// in the user's cache folder and depends on server and user.
func WithReceiveDir(dir string) Option { return func(o *options) { o.receiveDir = dir } }

// WithResumeWindow says how long unfinished tasks wait for a lost line, and a
// transfer for progress, before they end with 207. Its default is the server's
// window, or 2 minutes.
func WithResumeWindow(d time.Duration) Option { return func(o *options) { o.resumeWindow = max(0, d) } }

// WithParallel says how many buffers and files are sent at the same time, 4 by
// default; the others wait in the order in which they were given.
func WithParallel(n int) Option { return func(o *options) { o.parallel = max(1, n) } }

// WithParallelReceive says how many buffers and files are received at the same
// time, 16 by default; the others wait.
func WithParallelReceive(n int) Option { return func(o *options) { o.parallelReceive = max(1, n) } }

// WithAckHandled makes 0 the result of a command only when NotifyCmdData has
// returned, instead of when the command is queued for it.
func WithAckHandled() Option { return func(o *options) { o.ackHandled = true } }

// WithCommandTimeout says how long a command may take, from SendCmd to its
// result, before it ends with 604; 60 s by default.
func WithCommandTimeout(d time.Duration) Option {
	return func(o *options) {
		if d > 0 {
			o.commandTimeout = d
		}
	}
}

// WithClientName tells the server what this program is, for people: at most 128
// bytes, longer ones are cut.
func WithClientName(name string) Option { return func(o *options) { o.clientName = name } }

// sendOptions are what one Send* was given.
type sendOptions struct {
	cookie   any
	meta     []byte
	wait     time.Duration // for an offline peer
	sendID   string        // "" for a new one
	name     string
	named    bool // WithName was given
	typ      string
	instance *[16]byte // only this place may take it
	asBuffer bool
	path     string // SendFile's, absolute; not an option
}

func newSendOptions(list []SendOption) sendOptions {
	var o sendOptions
	o.set(list)
	return o
}

func (o *sendOptions) set(list []SendOption) {
	for _, set := range list {
		set(o)
	}
}

// A SendOption changes one Send*.
type SendOption func(*sendOptions)

// WithCookie keeps a value for the task and hands it back with each of its
// callbacks. It never travels.
func WithCookie(v any) SendOption { return func(o *sendOptions) { o.cookie = v } }

// WithMeta sends at most 4,096 bytes of the application's own along. The slice
// is not copied: leave it alone until the task is done.
func WithMeta(b []byte) SendOption { return func(o *sendOptions) { o.meta = b } }

// WithWaitForPeer makes the task wait for at most d while the peer is offline,
// instead of ending with 603 at once. A command's timeout begins when the peer
// is there.
func WithWaitForPeer(d time.Duration) SendOption { return func(o *sendOptions) { o.wait = max(0, d) } }

// WithSendID names the task: a UUID in lower case. An id that was used before
// goes on with the same content; otherwise make a new one, or leave it out.
func WithSendID(id string) SendOption { return func(o *sendOptions) { o.sendID = id } }

// WithName sends another name than the file's own: at most 1,024 bytes, for
// people. Commands have none.
func WithName(name string) SendOption {
	return func(o *sendOptions) { o.name, o.named = name, true }
}

// WithType sends a media type along, at most 255 bytes. Commands have none.
func WithType(mediaType string) SendOption { return func(o *sendOptions) { o.typ = mediaType } }

// WithInstance lets only this receiving place of the target take a buffer or
// file. Another one answers 1104.
func WithInstance(instance [16]byte) SendOption {
	return func(o *sendOptions) { o.instance = &instance }
}

// AsBuffer makes SendReader send a buffer, of at most 100 MiB, instead of a file.
func AsBuffer() SendOption { return func(o *sendOptions) { o.asBuffer = true } }
