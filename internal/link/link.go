package link

import (
	"context"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// Good values for a Config's zero fields, and the bounds nobody sets.
const (
	DefaultHeartbeat    = 25 * time.Second
	DefaultQueueBytes   = 1 << 20
	DefaultQueueFrames  = 4096
	DefaultWriteTimeout = 10 * time.Second

	batchBytes  = 64 << 10         // frames are gathered into messages of about this size
	messageTime = 15 * time.Second // from a message's first byte to its last (case 2)
	closeTime   = 5 * time.Second  // for everything that Close still does (case 8)
	drainTime   = time.Second      // for what a peer still sends when it cannot be read any more
	drainBytes  = 1 << 20

	controlRate  = 10 // pings and pongs a second that a peer may send (case 7)
	controlBurst = 50
)

// Sizes for the websocket.Dialer or Upgrader of a connection that becomes a
// Link: with WriteBuffers as its WriteBufferPool a batch is one write, and an
// idle connection holds no write buffer.
const (
	ReadBufferBytes  = 4 << 10
	IdleReadBytes    = 512 // for a connection behind Guarded, which reads ahead itself
	WriteBufferBytes = batchBytes
)

// WriteBuffers is the pool of write buffers of WriteBufferBytes.
var WriteBuffers websocket.BufferPool = &sync.Pool{}

// Config is what a Link needs to know. Only Handle is required.
type Config struct {
	// Handle gets every frame but Ping, Pong and frames of unknown kind, one after
	// the other, on Run's goroutine. While it runs nothing is read. An error ends
	// the link: a *CloseError says how, any other closes with status 1011. A Command,
	// a CommandAck or a CommandResult and the bytes in it are good until Handle
	// returns; its strings may be kept.
	Handle func(*wire.Frame) error
	// Handled, if it is not nil, is called on Run's goroutine when all that has come is
	// handled and what was sent with SendBy is on its way, before more is waited for:
	// for what may start other goroutines, which those frames need not wait for. It may
	// be called more often.
	Handled func()
	// JSON makes it a session of text messages, one frame each.
	JSON bool
	// Heartbeat is the silence after which a Ping is sent; twice this long without
	// a message from the peer ends the link with ErrSilent.
	Heartbeat time.Duration
	// QueueBytes and QueueFrames bound what was sent and is not yet written. A
	// single frame always finds room in an empty queue.
	QueueBytes  int
	QueueFrames int
	// Room, if it is not nil, bounds the bytes instead of QueueBytes.
	Room Room
	// WriteTimeout bounds one write of up to 64 KiB.
	WriteTimeout time.Duration
}

// A Room is where queues take their bytes from, several links' maybe. It is called
// with the link's lock, so it must not block and not call the link.
type Room interface {
	// Take is called when n bytes are queued; false refuses them with ErrFull. With
	// must they are queued in any case.
	Take(n int, must bool) bool
	// Give is called when n bytes have left the queue.
	Give(n int)
}

// noRoom is the Room of a link that has none: QueueBytes is all.
type noRoom struct{}

func (noRoom) Take(int, bool) bool { return true }
func (noRoom) Give(int)            {}

func (c Config) withDefaults() Config {
	if c.Heartbeat <= 0 {
		c.Heartbeat = DefaultHeartbeat
	}
	switch {
	case c.Room != nil:
		c.QueueBytes = math.MaxInt
	case c.QueueBytes <= 0:
		c.QueueBytes = DefaultQueueBytes
	}
	if c.Room == nil {
		c.Room = noRoom{}
	}
	if c.QueueFrames <= 0 {
		c.QueueFrames = DefaultQueueFrames
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = DefaultWriteTimeout
	}
	return c
}

// A Link is one connection in service. Send, Close and the questions may be
// called by anybody at any time. Its fields are grouped by who may touch them.
type Link struct {
	// Set by New, then only read.
	conn    *websocket.Conn
	cfg     Config
	born    time.Time
	written chan struct{} // closed when nothing is written any more
	done    chan struct{} // closed when Run returns

	// Used by reader and writer.
	closing atomic.Bool // the end has begun: received frames are not handled any more
	watch   watch

	mu     sync.Mutex // guards the queue and how it ends
	out    batch      // what the writer takes next
	flying batch      // what the writer is writing; only its sizes count here
	pong   bool       // a Pong is owed
	wsPong []byte     // WebSocket-level pong owed; nil: none
	err    error      // the first cause
	status int        // WebSocket status to close with; 0: do not
	last   *wire.Frame
	dead   bool // the connection is closed
	later  bool // what is queued waits for a reader that wakes the writer (SendBy)

	running   bool        // Run has begun
	atWork    bool        // a writer runs
	wrote     bool        // written is closed
	heartbeat *time.Timer // set by Run

	// Owned by the reader.
	control bucket
	woken   []*Link // whose writers are woken when it has handled all that has come
	asking  bool    // the connection tells when that is; otherwise it is each message
	// Owned by who writes: the writer, or somebody who writes in its place.
	writing sync.Mutex // first of the two mutexes
	sent    time.Time  // when something was written last
	calm    *calm
}

// New makes a Link of a connection whose login is done. It works once Run is
// called, and has to be, for Done to close; frames sent before wait in the queue.
func New(conn *websocket.Conn, cfg Config) *Link {
	l := &Link{
		conn:    conn,
		cfg:     cfg.withDefaults(),
		born:    time.Now(),
		written: make(chan struct{}),
		done:    make(chan struct{}),
	}
	l.sent = l.born
	l.calm = calmOf(rawConn(conn))
	l.control = bucket{tokens: controlBurst, at: l.born}
	conn.SetReadLimit(wire.MessageBytes)
	conn.SetReadDeadline(time.Time{}) // the watch takes over
	l.asking = notice(conn, l.WakeOthers)
	conn.SetPingHandler(l.gotPing)
	conn.SetPongHandler(l.gotPong)
	conn.SetCloseHandler(func(int, string) error { return nil }) // the writer answers it
	return l
}

// Run carries frames until either direction fails, Close has done its work or
// ctx ends. It closes the connection and returns the first cause: ErrSilent,
// ErrClosed after a Close, a *websocket.CloseError when the peer closed, the
// error of Handle, the cause of ctx, or what broke. Reader and writer have stopped
// by then; a Handle that is running is waited for. Run may be called once.
func (l *Link) Run(ctx context.Context) error {
	defer close(l.done)
	stopWatching := context.AfterFunc(ctx, func() { l.kill(context.Cause(ctx)) })
	defer stopWatching()

	l.watch.start(l)
	defer l.watch.end()

	l.mu.Lock()
	l.running = true
	l.heartbeat = time.AfterFunc(l.cfg.Heartbeat, l.beat)
	idle := l.idleLocked()
	if l.dead {
		l.wroteLocked()
	}
	l.mu.Unlock()
	defer l.heartbeat.Stop()
	if !idle {
		l.wakeWriter()
	}
	l.readLoop()
	<-l.written
	l.kill(ErrClosed)
	l.conn.Close()
	l.Drop()
	return l.Err()
}

// Drop gives up what is queued. It is for a Link that will not Run.
func (l *Link) Drop() {
	l.writing.Lock() // somebody may be writing in the writer's place
	defer l.writing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = ErrClosed
	}
	l.forgetLocked(&l.out)
	l.forgetLocked(&l.flying)
}

// forgetLocked empties a batch.
func (l *Link) forgetLocked(b *batch) {
	l.cfg.Room.Give(b.size())
	b.reset()
}

// kill ends the link at once. It is not held up by the connection.
func (l *Link) kill(cause error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = cause
	}
	was := l.dead
	l.dead = true
	if !l.atWork {
		l.wroteLocked()
	}
	l.mu.Unlock()
	l.closing.Store(true)
	if !was {
		// The socket itself: a TLS goodbye could wait for a peer that reads nothing.
		rawConn(l.conn).Close()
	}
}

// abandon is kill for a peer that takes nothing or says nothing: it makes the end a
// reset. An orderly one is sent after all that is under way; a peer that can be
// reached, but not heard, has never acknowledged that and would go on waiting.
func (l *Link) abandon(cause error) {
	if tcp, ok := rawConn(l.conn).(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0) // fails if the connection is closed
	}
	l.kill(cause)
}

// finish begins an orderly end: the queue, then last, then a close with status.
// With dropQueue the queue is left out: the peer has closed or broke the rules.
// Only the first call counts.
func (l *Link) finish(cause error, last *wire.Frame, status int, dropQueue bool) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err, l.last, l.status = cause, last, status
	l.pong, l.wsPong = false, nil
	if dropQueue {
		l.forgetLocked(&l.out)
	}
	l.mu.Unlock()
	l.closing.Store(true)
	l.watch.closeBy(l, time.Since(l.born)+closeTime)
	l.wakeWriter()
}

// Close ends the link in order: what is queued, then f (a LineOff; may be nil),
// then a WebSocket close with status, then the peer's own close. It returns at
// once; all of it together is bounded by 5 s. From now on Send answers ErrClosed
// and nothing received is handled. Only the first Close counts.
func (l *Link) Close(f *wire.Frame, status int) {
	l.finish(ErrClosed, f, status, false)
}

// Done is closed when Run returns.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err returns why the link ends or has ended, nil as long as it is in service.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Queued returns how much was sent and is not yet written to the connection.
func (l *Link) Queued() (frames, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.frames + l.flying.frames, l.out.size() + l.flying.size()
}

// RemoteAddr returns the peer's address.
func (l *Link) RemoteAddr() net.Addr { return l.conn.RemoteAddr() }

// rawConn returns the connection below TLS and what else is around it, as far as
// that can be seen.
func rawConn(ws *websocket.Conn) net.Conn {
	conn := ws.NetConn()
	for {
		t, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = t.NetConn()
	}
}
