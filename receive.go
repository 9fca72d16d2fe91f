package dian

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dian-im/dian/internal/inbox"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

const (
	receiveMost   = 4096 // transfers that are known at a time; more are refused (602)
	inlineKeeping = 64   // contents of offers that are written at a time, so that they share their flushes
	knownNames    = 4096 // ids of transfers that are not open, for a late cancel
	idleSlack     = 30 * time.Second
	cleanEvery    = time.Hour
	defaultDirs   = 16 // default receive folders of one user on one machine
)

// incoming is the buffers and files that a client receives.
type incoming struct {
	c      *Client
	box    *inbox.Inbox
	ctx    context.Context // ends with close
	stop   context.CancelFunc
	slots  *budget // transfers at a time
	inline *budget // contents of offers at a time
	memory *budget // bytes of buffers

	gate    sync.Mutex     // guards what follows; nothing else is locked below it
	shut    bool           // close waits for running
	running sync.WaitGroup // added to only while not shut

	mu         sync.Mutex // guards what follows
	closed     bool
	up         bool
	greeted    bool // what an earlier life did not tell was told
	all        map[inbox.Key]*inTransfer
	byTransfer map[string]*inTransfer
	verdicts   *verdicts            // of what is not in the inbox
	kept       map[inbox.Key]*Offer // accepted, and left to be gone on with
	names      map[string]inbox.Key // of transfers that are not open
	nameList   []string             // the same in order
}

// newIncoming opens the receive folder. That happens before the login, which has
// to tell its instance; so the default folder is named for the server's URL and
// for what the token says about app and user.
func newIncoming(c *Client) (*incoming, error) {
	box, err := openInbox(c)
	if err != nil {
		return nil, err
	}
	in := &incoming{
		c: c, box: box,
		slots:  &budget{free: int64(c.opts.parallelReceive)},
		inline: &budget{free: inlineKeeping},
		memory: &budget{free: bufferBudget},
		all:    map[inbox.Key]*inTransfer{}, byTransfer: map[string]*inTransfer{},
		verdicts: newVerdicts(), kept: map[inbox.Key]*Offer{}, names: map[string]inbox.Key{},
	}
	in.ctx, in.stop = context.WithCancel(context.Background())
	in.running.Go(in.clean)
	return in, nil
}

func openInbox(c *Client) (*inbox.Inbox, error) {
	options := inbox.Options{Logger: c.opts.log}
	if dir := c.opts.receiveDir; dir != "" {
		box, err := inbox.Open(dir, options)
		if err != nil {
			return nil, localError("connect", "", ErrFileWrite, "receive folder", err)
		}
		return box, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, localError("connect", "", ErrFileWrite, "no cache folder; use WithReceiveDir", err)
	}
	dir := filepath.Join(cache, "dian", placeName(c.net.base.String(), c.tokens.current()))
	// A login that is about to kick an older one of this machine finds its folder
	// in use, and is another place.
	for i := range defaultDirs {
		name := dir
		if i > 0 {
			name += "-" + strconv.Itoa(i+1)
		}
		var box *inbox.Inbox
		if box, err = inbox.Open(name, options); err == nil {
			return box, nil
		}
		if !errors.Is(err, inbox.ErrInUse) {
			break
		}
	}
	return nil, localError("connect", "", ErrFileWrite, "receive folder", err)
}

// placeName is a folder's name for a server and what a token says about app and
// user. The token is not verified here: it only has to lead to the same folder.
func placeName(server, token string) string {
	var claims struct {
		Sub string          `json:"sub"`
		Aud json.RawMessage `json:"aud"`
	}
	if parts := strings.Split(token, "."); len(parts) == 3 {
		if b, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(b, &claims) // a token that cannot be read will be refused
		}
	}
	aud := strings.Trim(string(claims.Aud), "[] \t\r\n") // a list of one is that one
	sum := sha256.Sum256([]byte(server + "\x00" + aud + "\x00" + claims.Sub))
	return hex.EncodeToString(sum[:16])
}

// instance returns the id of the receiving place.
func (in *incoming) instance() [16]byte { return in.box.Instance() }

// clean removes what is too old, from time to time.
func (in *incoming) clean() {
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		select {
		case <-in.ctx.Done():
			return
		case now := <-tick.C:
			if err := in.box.Clean(now); err != nil {
				in.c.opts.log.Warn("receive folder was not cleaned", "err", err)
			}
		}
	}
}

// work starts a goroutine that close waits for; none after it.
func (in *incoming) work(fn func()) {
	in.gate.Lock()
	defer in.gate.Unlock()
	if !in.shut {
		in.running.Go(fn)
	}
}

// frame takes in a frame from the server, which was checked alone.
func (in *incoming) frame(f *wire.Frame) {
	switch b := f.GetBody().(type) {
	case *wire.Frame_Offer:
		o := b.Offer
		x := in.open(inbox.Key{Source: o.Source.GetUser(), SendID: o.SendId}, o.Transfer)
		if x == nil {
			in.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
				Transfer: o.Transfer, Decision: wire.Decision_DECISION_REFUSE, Code: uint32(wire.PeerBusy),
			}}})
			return
		}
		x.postFrame(f, func() { x.offered(o) })
	case *wire.Frame_Query:
		q := b.Query
		x := in.open(inbox.Key{Source: q.Source.GetUser(), SendID: q.SendId}, q.Transfer)
		if x == nil {
			in.send(&wire.Frame{Body: &wire.Frame_Standing{Standing: &wire.Standing{
				Transfer: q.Transfer, SendId: q.SendId, State: wire.TransferState_TRANSFER_STATE_UNKNOWN,
			}}})
			return
		}
		x.postFrame(f, func() {
			if o := in.remembered(x, q); o != nil {
				x.offered(o)
				return
			}
			x.step(transfer.ReceiverQuery{Transfer: q.Transfer, URL: q.Url, Ticket: q.Ticket})
		})
	case *wire.Frame_Sync:
		if x := in.find(b.Sync.Transfer, false); x != nil {
			x.postFrame(f, func() { x.step(transfer.ReceiverSync{Offset: b.Sync.Offset}) })
		}
	case *wire.Frame_Finish:
		if x := in.find(b.Finish.Transfer, true); x != nil {
			x.postFrame(f, func() { x.step(transfer.ReceiverFinish{Digest: b.Finish.Digest}) })
		}
	case *wire.Frame_VerdictAck:
		if x := in.find(b.VerdictAck.Transfer, false); x != nil {
			x.postFrame(f, func() { x.step(transfer.ReceiverAcked{}) })
		}
	case *wire.Frame_Cancel:
		x := in.find(b.Cancel.Transfer, true)
		if x == nil && b.Cancel.Source != nil { // of an earlier life, whose part may be here
			x = in.open(inbox.Key{Source: b.Cancel.Source.User, SendID: b.Cancel.SendId}, b.Cancel.Transfer)
		}
		if x != nil {
			x.postFrame(f, func() { x.step(transfer.ReceiverCancel{Transfer: b.Cancel.Transfer}) })
			return
		}
		// Whose it was is not known, and nothing of it is open.
		in.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{
			SendId: b.Cancel.SendId, Transfer: b.Cancel.Transfer, Code: uint32(wire.Cancelled),
		}}})
	}
}

// remembered makes an offer of what the inbox has recorded of a part that an
// earlier life of this process has accepted, and which is asked about for the first
// time in this one. The application is asked again, and the answer to that offer
// serves as the answer to the question. nil means that there is no such part.
func (in *incoming) remembered(x *inTransfer, q *wire.Query) *wire.Offer {
	if x.frame != nil || in.box == nil {
		return nil
	}
	info, ok := in.box.Stored(x.key)
	if !ok {
		return nil
	}
	o := &wire.Offer{
		SendId: q.SendId, Source: q.Source, Kind: wire.Kind_KIND_FILE, Size: info.Size, Name: info.Name, Type: info.Type,
		Meta: info.Meta, Header: info.Header, Transfer: q.Transfer, Url: q.Url, Ticket: q.Ticket,
	}
	if len(info.SHA256) > 0 {
		o.Digest = &wire.Digest{Algorithm: wire.DigestSHA256, Value: info.SHA256}
	}
	return o
}

// open returns the transfer of a key, a new one if there is none; nil if there are
// too many.
func (in *incoming) open(key inbox.Key, id string) *inTransfer {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return nil
	}
	x := in.all[key]
	if x == nil {
		if len(in.all) >= receiveMost {
			return nil
		}
		x = in.newTransferLocked(key)
		in.all[key] = x
	}
	if x.transfer != id {
		if in.byTransfer[x.transfer] == x {
			delete(in.byTransfer, x.transfer)
		}
		x.transfer = id
		in.byTransfer[id] = x
	}
	return x
}

// find returns the open transfer of an id. With again, one that is not open any
// more is opened from what is known of it.
func (in *incoming) find(id string, again bool) *inTransfer {
	in.mu.Lock()
	x, key := in.byTransfer[id], in.names[id]
	in.mu.Unlock()
	if x == nil && again && key != (inbox.Key{}) {
		return in.open(key, id)
	}
	return x
}

// forget takes a transfer out of the tables.
func (in *incoming) forget(x *inTransfer) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.all[x.key] == x {
		delete(in.all, x.key)
	}
	if in.byTransfer[x.transfer] != x {
		return
	}
	delete(in.byTransfer, x.transfer)
	if _, known := in.names[x.transfer]; !known {
		if len(in.nameList) >= knownNames {
			delete(in.names, in.nameList[0])
			in.nameList = in.nameList[1:]
		}
		in.nameList = append(in.nameList, x.transfer)
	}
	in.names[x.transfer] = x.key
}

// send queues a frame. Without a session it is asked for again after the next login.
func (in *incoming) send(f *wire.Frame) { _ = in.c.sendFrame(f) }

// lineUp says that there is a session.
func (in *incoming) lineUp(*wire.Welcome) {
	in.line(true, transfer.ReceiverLineUp{})
	in.mu.Lock()
	first := !in.greeted && !in.closed
	in.greeted = true
	in.mu.Unlock()
	if first {
		for _, f := range in.box.Unnotified() {
			in.notifyFile(f)
		}
	}
}

// lineDown says that it has gone.
func (in *incoming) lineDown() { in.line(false, transfer.ReceiverLineDown{}) }

func (in *incoming) line(up bool, e transfer.ReceiverEvent) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.up = up
	for _, x := range in.all {
		x.box.post(true, func() { x.step(e) })
	}
}

// notifyFile tells the application of a kept file, and then notes that it was told.
func (in *incoming) notifyFile(f *inbox.File) {
	told := in.c.opts.handler.NotifyFileData
	if told == nil {
		return // whoever sets one finds it at the next start
	}
	in.c.notify(func() {
		told(fileData(f))
		if err := f.Notified(); err != nil {
			in.c.opts.log.Info("file will be notified again", "sendID", f.Key.SendID, "err", err)
		}
	})
}

// close ends everything, keeps what is here in part, and releases the folder. It
// waits for its goroutines; not for AcceptFile and AcceptBuffer, which may be what
// has called it.
func (in *incoming) close(*Error) {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return
	}
	in.closed = true
	all, kept := in.all, in.kept
	in.all, in.byTransfer, in.kept = map[inbox.Key]*inTransfer{}, map[string]*inTransfer{}, map[inbox.Key]*Offer{}
	in.mu.Unlock()
	in.gate.Lock()
	in.shut = true
	in.gate.Unlock()
	in.stop()
	in.running.Wait()
	for _, x := range all {
		x.end()
	}
	for _, o := range kept {
		o.finish()
	}
	if err := in.box.Close(); err != nil {
		in.c.opts.log.Warn("receive folder", "err", err)
	}
}

// record returns what is known of a transfer that is not open.
func (in *incoming) record(key inbox.Key) transfer.ReceiverRecord {
	if v, ok := in.verdicts.find(key, time.Now()); ok {
		if v.Code == wire.Cancelled {
			return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_CANCELLED, Code: v.Code}
		}
		return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_HAVE, Code: v.Code, Receipt: v.Receipt, LengthOnly: v.LengthOnly}
	}
	e, ok := in.box.Lookup(key)
	if !ok {
		return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_UNKNOWN}
	}
	switch e.State {
	case inbox.Have:
		return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_HAVE, Code: wire.Code(e.Code),
			Receipt: wire.Receipt_RECEIPT_STORED, Offset: e.Offset, Size: e.Size}
	case inbox.Cancelled:
		return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_CANCELLED, Code: wire.Code(e.Code)}
	}
	return transfer.ReceiverRecord{State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: e.Offset, Size: e.Size}
}
