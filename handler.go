package dian

import "time"

// A Handler is what a client calls back. Every field may be nil.
//
// The functions run one after the other, in the order of what they tell of, on
// one goroutine of the client; the first may begin before Connect has returned.
// While one runs, the session, transfers and heartbeats go on; what comes in the
// meantime is queued, and commands over the bound of that queue (1024, or 4 MiB)
// are answered 602. Every method of Client and Task may be called inside, Wait
// and Close too. A panic is not recovered.
//
// FileData and Offer stand in filedata.go and offer.go.
type Handler struct {
	// NotifyCmdData gets commands: of one sender in the order in which they were
	// sent, each once for the life of this client. The sender's result is 0 when
	// the command is queued for this call, or with WithAckHandled when the call has
	// returned. Without it and without HandleCmd commands are refused with 606.
	NotifyCmdData func(CmdData)
	// HandleCmd is called instead of NotifyCmdData if it is set, and its return
	// is the sender's result: the reply (at most 65,536 bytes, otherwise the
	// result is 1100), or the error's Code, with 606 for an error that has none.
	// The error's Detail travels, its other text does not. It implies WithAckHandled.
	HandleCmd func(CmdData) (reply []byte, err error)
	// NotifyBufferData gets whole, verified buffers. Without it and without
	// AcceptBuffer buffers are refused with 606.
	NotifyBufferData func(BufferData)
	// NotifyFileData gets files that are verified, flushed and kept; it may be
	// called again, with the same SendID, after a crash (at least once). Without
	// it and without AcceptFile files are refused with 606.
	NotifyFileData func(FileData)
	// AcceptFile and AcceptBuffer are asked before anything is received. They
	// answer with one of the Offer's methods, at once or later and from any
	// goroutine. Without them everything is accepted.
	AcceptFile, AcceptBuffer func(*Offer)

	// SendCmdResult, SendBufferResult and SendFileResult get the one result of
	// every task.
	SendCmdResult, SendBufferResult, SendFileResult func(Result)
	// CancelSendResult tells whether a cancel took. If it did it comes before the
	// task's own result, which then is 1105.
	CancelSendResult func(CancelResult)
	// NotifySendProgress tells what the receiver has confirmed: rising, at most
	// ten times a second for one task, and after success with Sent = Total before
	// the result.
	NotifySendProgress func(Progress)
	// NotifyCancelSend tells that a sender has cancelled a buffer or file that
	// was accepted; nothing of it is kept.
	NotifyCancelSend func(CancelNotice)

	// NotifyReconnecting is called before each try to get a lost line back.
	NotifyReconnecting func(Reconnecting)
	// NotifyReconnected is called when the line is back.
	NotifyReconnected func()
	// NotifyLineOff is called once when the line is off for good: kicked (10),
	// the token expired (18) or refused. The client does nothing more and wants
	// to be closed. It is not called for Close.
	NotifyLineOff func(error)
	// NotifyTokenWillExpire is called about 30 s before the token's end, which it
	// gets, if there is no token source or the source has failed. UpdateToken
	// prevents the end.
	NotifyTokenWillExpire func(time.Time)
	// NotifyUserStatus gets what a subscription of StartUserStatusNotify tells:
	// first the state at its start, then changes.
	NotifyUserStatus func([]UserStatus)
}

// CmdData is a command that has arrived. Its slices are the callback's to keep.
type CmdData struct {
	Source string // the user who sent it
	SendID string
	Data   []byte // at most 65,536 bytes
	Meta   []byte // the sender's WithMeta, at most 4,096 bytes
}

// BufferData is a buffer that has arrived, whole and verified. Its slices are
// the callback's to keep.
type BufferData struct {
	Source string // the user who sent it
	SendID string
	Name   string // as sent, may be empty: data, never a path
	Type   string // media type as sent, may be empty
	Data   []byte // at most 104,857,600 bytes
	Meta   []byte // at most 4,096 bytes
}

// Result is the one result of a task.
type Result struct {
	SendID, Target string
	Kind           Kind
	FileName       string // SendFile: the sender's full local path
	Cookie         any    // what WithCookie gave; it never travels
	Err            error  // nil or an *Error
	Receipt        Receipt
	LengthOnly     bool   // only the length was checked: there was no digest
	Reply          []byte // a command's, at most 65,536 bytes
	Size           int64  // bytes of the content
}

// Progress is how much of a buffer or file the receiver has confirmed, in bytes.
type Progress struct {
	SendID, Target string
	Sent, Total    int64
	Cookie         any
}

// CancelResult tells whether a cancel took. Err is nil, or an *Error with
// ErrBadSendID: it was too late, or there is no such buffer or file task.
type CancelResult struct {
	SendID string
	Cookie any // of the task; nil if there is none
	Err    error
}

// CancelNotice tells a receiver what its sender has cancelled.
type CancelNotice struct {
	SendID, Source string
	Kind           Kind
}

// Reconnecting tells why the line is down and when the next try begins.
type Reconnecting struct {
	Attempt int           // 1 for the first since the line was lost
	Err     error         // why the line, or the try before, failed: an *Error
	Delay   time.Duration // from now to the try
}

// UserStatus is the state of a user.
type UserStatus struct {
	User         string
	Status       Status
	DoNotDisturb int32 // the application's own number; 0 means off
}

// Status is whether a user is there.
type Status uint8

// The states of a user.
const (
	Offline Status = 0
	Online  Status = 1
	Busy    Status = 2
)

// String returns "offline", "online" or "busy".
func (s Status) String() string {
	switch s {
	case Offline:
		return "offline"
	case Online:
		return "online"
	case Busy:
		return "busy"
	}
	return "unknown status"
}

// Kind is what a task carries.
type Kind uint8

// The kinds.
const (
	Command Kind = 1 + iota // up to 64 KiB, in order and once
	Buffer                  // up to 100 MiB, handed over in memory
	File                    // any size, kept as a file
)

// String returns "command", "buffer" or "file".
func (k Kind) String() string {
	switch k {
	case Command:
		return "command"
	case Buffer:
		return "buffer"
	case File:
		return "file"
	}
	return "unknown kind"
}

// Receipt is how sure a result of 0 is.
type Receipt uint8

// The receipts.
const (
	None   Receipt = iota // of a command, or there was no success
	Stored                // complete, verified and, for a file, flushed to disk
	Handed                // every byte was written to the receiver's connection or writer
)

// String returns "none", "stored" or "handed".
func (r Receipt) String() string {
	switch r {
	case None:
		return "none"
	case Stored:
		return "stored"
	case Handed:
		return "handed"
	}
	return "unknown receipt"
}
