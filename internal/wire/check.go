package wire

import (
	"fmt"
	"math"
)

// The Check functions say why the fields of one frame are not what
// docs/protocol.md allows, as an *Error with the code to answer. They look at
// one frame alone: whether it is legal at this moment is for the state machines.
// Server and SDK use the same ones, before they keep or pass on anything.

// refuse builds the refusal of a field.
func refuse(c Code, format string, args ...any) error {
	return &Error{c, fmt.Sprintf(format, args...)}
}

// first returns the first error of several checks.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func atMost[T ~string | ~[]byte](name string, v T, limit int) error {
	if len(v) > limit {
		return refuse(BadParameter, "%s has %d bytes, at most %d are allowed", name, len(v), limit)
	}
	return nil
}

func notNegative(name string, v int64) error {
	if v < 0 {
		return refuse(BadParameter, "%s is negative", name)
	}
	return nil
}

// Of enumerations only the highest value is asked for; needed says whether
// unspecified is refused as well.
func enum[T ~int32](name string, v, highest T, needed bool) error {
	if v < 0 || v > highest || needed && v == 0 {
		return refuse(BadParameter, "%s has no such value", name)
	}
	return nil
}

// CheckTarget refuses what is not a user id with BadTarget.
func CheckTarget(target string) error {
	if err := CheckUser(target); err != nil {
		return refuse(BadTarget, "%v", err)
	}
	return nil
}

func checkTransferID(id string, needed bool) error {
	if needed && id == "" {
		return refuse(BadParameter, "transfer is empty")
	}
	return atMost("transfer", id, TransferBytes)
}

// checkEither wants a good send_id, a transfer, or both.
func checkEither(sendID, transfer string) error {
	if sendID != "" {
		if err := CheckSendID(sendID); err != nil {
			return err
		}
	}
	return checkTransferID(transfer, sendID == "")
}

// CheckInstance wants 16 bytes, or none where it is not needed.
func CheckInstance(instance []byte, needed bool) error {
	if len(instance) == InstanceBytes || len(instance) == 0 && !needed {
		return nil
	}
	return refuse(BadParameter, "instance has %d bytes, not %d", len(instance), InstanceBytes)
}

func checkPeer(name string, p *Peer) error {
	if p == nil {
		return refuse(BadParameter, "%s is missing", name)
	}
	if err := CheckUser(p.User); err != nil {
		return refuse(BadParameter, "%s: %v", name, err)
	}
	return CheckInstance(p.Instance, false)
}

// CheckDigest wants a known algorithm and the length that goes with it. A nil
// digest is good: it means that only the length can be checked.
func CheckDigest(d *Digest) error {
	if d == nil {
		return nil
	}
	want := 0
	switch d.Algorithm {
	case DigestX3B:
		want = 16
	case DigestSHA256:
		want = 32
	default:
		return refuse(BadParameter, "digest algorithm is not known")
	}
	if len(d.Value) != want {
		return refuse(BadParameter, "%s digest has %d bytes, not %d", d.Algorithm, len(d.Value), want)
	}
	return nil
}

// CheckHello checks a login.
func CheckHello(h *Hello) error {
	if len(h.GetToken()) > TokenBytes {
		return refuse(TokenMalformed, "token has %d bytes, at most %d are allowed", len(h.Token), TokenBytes)
	}
	return first(
		atMost("client", h.GetClient(), ClientBytes),
		enum("role", h.GetRole(), Role_ROLE_SEND, true),
		CheckInstance(h.GetInstance(), h.GetRole() == Role_ROLE_LISTEN),
		checkCapabilities(h.GetCapabilities()),
	)
}

func checkCapabilities(list []string) error {
	if len(list) > Capabilities {
		return refuse(BadParameter, "%d capabilities, at most %d are allowed", len(list), Capabilities)
	}
	for _, c := range list {
		if err := atMost("capability", c, CapabilityBytes); err != nil {
			return err
		}
	}
	return nil
}

// CheckWelcome checks the answer to a login. A heartbeat of 0 is left to the caller.
func CheckWelcome(w *Welcome) error {
	if CheckUser(w.GetUser()) != nil || CheckApp(w.GetApp()) != nil {
		return refuse(BadParameter, "user or app is malformed")
	}
	l := w.GetLimits()
	for _, v := range []int64{l.GetCommandBytes(), l.GetReplyBytes(), l.GetBufferBytes(), l.GetFileBytes(),
		l.GetInlineBytes(), l.GetMetaBytes(), l.GetHeaderBytes(),
		l.GetResumeWindowMs(), l.GetOfferWaitMs(), l.GetCommandWaitMs()} {
		if v < 0 {
			return refuse(BadParameter, "a limit is negative")
		}
	}
	return first(checkCapabilities(w.GetCapabilities()), atMost("lane_base", w.GetLaneBase(), URLBytes))
}

// CheckUpdateToken checks the size of the token alone.
func CheckUpdateToken(u *UpdateToken) error {
	if len(u.GetToken()) > TokenBytes {
		return refuse(TokenMalformed, "token has %d bytes, at most %d are allowed", len(u.Token), TokenBytes)
	}
	return nil
}

// CheckCommand checks a command as its sender sends it. Source and Ref are not
// looked at: the server overwrites them.
func CheckCommand(c *Command) error {
	return first(CheckTarget(c.GetTarget()), checkCommand(c))
}

// CheckDeliveredCommand checks a command as it comes to its receiver.
func CheckDeliveredCommand(c *Command) error {
	return first(checkPeer("source", c.GetSource()), checkCommand(c))
}

func checkCommand(c *Command) error {
	if len(c.GetData()) > CommandBytes {
		return refuse(CommandTooLarge, "%d bytes, at most %d are allowed", len(c.Data), CommandBytes)
	}
	if err := CheckSendID(c.GetId()); err != nil {
		return err
	}
	switch {
	case c.Stream == 0 && (c.Seq != 0 || c.Floor != 0):
		return refuse(BadParameter, "seq or floor without a stream")
	case c.Stream != 0 && (c.Floor < 1 || c.Floor > c.Seq):
		return refuse(BadParameter, "floor is not in 1 to seq")
	case c.Seq == math.MaxUint64: // next would wrap around
		return refuse(BadParameter, "seq is too large")
	}
	return first(atMost("meta", c.Meta, MetaBytes), atMost("header", c.Header, HeaderBytes))
}

// CheckCommandAck checks a receiver's word on a command.
func CheckCommandAck(a *CommandAck) error {
	if a.GetOutcome() == CommandOutcome_COMMAND_OUTCOME_LOST {
		return refuse(BadParameter, "outcome LOST is the server's")
	}
	return checkOutcome(a.GetId(), a.GetOutcome(), a.GetReply(), a.GetDetail(), a.GetHeader())
}

// CheckCommandResult checks what a command's sender gets.
func CheckCommandResult(r *CommandResult) error {
	return first(
		checkOutcome(r.GetId(), r.GetOutcome(), r.GetReply(), r.GetDetail(), r.GetHeader()),
		enum("origin", r.GetOrigin(), Origin_ORIGIN_PEER, false),
	)
}

func checkOutcome(id string, outcome CommandOutcome, reply []byte, detail string, header []byte) error {
	return first(
		CheckSendID(id),
		enum("outcome", outcome, CommandOutcome_COMMAND_OUTCOME_LOST, true),
		atMost("reply", reply, ReplyBytes),
		atMost("detail", detail, DetailBytes),
		atMost("header", header, HeaderBytes),
	)
}

// CheckOffer checks an offer as its sender sends it. What the server stamps is
// not looked at.
func CheckOffer(o *Offer) error {
	return first(CheckTarget(o.GetTarget()), checkOffer(o))
}

// CheckDeliveredOffer checks an offer as it comes to its receiver.
func CheckDeliveredOffer(o *Offer) error {
	return first(
		checkPeer("source", o.GetSource()),
		checkOffer(o),
		checkTransferID(o.GetTransfer(), true),
		atMost("url", o.GetUrl(), URLBytes),
		atMost("ticket", o.GetTicket(), TicketBytes),
	)
}

func checkOffer(o *Offer) error {
	if o.GetKind() == Kind_KIND_BUFFER && o.Size > BufferBytes {
		return refuse(BufferTooLarge, "%d bytes, at most %d are allowed", o.Size, BufferBytes)
	}
	if !o.GetInlined() && len(o.GetInline()) > 0 {
		return refuse(BadParameter, "inline content in an offer that is not inlined")
	}
	if o.GetInlined() && int64(len(o.Inline)) != o.Size {
		return refuse(BadParameter, "inline has %d bytes, size says %d", len(o.Inline), o.Size)
	}
	return first(
		CheckSendID(o.GetSendId()),
		enum("kind", o.GetKind(), Kind_KIND_FILE, true),
		notNegative("size", o.GetSize()),
		atMost("inline", o.GetInline(), InlineBytes),
		atMost("name", o.GetName(), NameBytes),
		atMost("type", o.GetType(), TypeBytes),
		atMost("meta", o.GetMeta(), MetaBytes),
		atMost("header", o.GetHeader(), HeaderBytes),
		CheckDigest(o.GetDigest()),
		CheckInstance(o.GetInstance(), false),
	)
}

// CheckAnswer checks a receiver's answer to an offer. Whether the offset is
// within the size only the transfer's machine can tell.
func CheckAnswer(a *Answer) error {
	if a.GetDecision() == Decision_DECISION_REFUSE && Code(a.Code) == OK {
		return refuse(BadParameter, "a refusal without a code")
	}
	return first(
		checkTransferID(a.GetTransfer(), true),
		enum("decision", a.GetDecision(), Decision_DECISION_HAVE, true),
		notNegative("offset", a.GetOffset()),
		enum("receipt", a.GetReceipt(), Receipt_RECEIPT_HANDED, false),
		atMost("detail", a.GetDetail(), DetailBytes),
		atMost("header", a.GetHeader(), HeaderBytes),
	)
}

// CheckAccepted checks what a sender gets for an accepted offer.
func CheckAccepted(a *Accepted) error {
	return first(
		CheckSendID(a.GetSendId()),
		checkTransferID(a.GetTransfer(), true),
		atMost("url", a.GetUrl(), URLBytes),
		notNegative("offset", a.GetOffset()),
		enum("receipt", a.GetReceipt(), Receipt_RECEIPT_HANDED, false),
		checkPeer("peer", a.GetPeer()),
		atMost("header", a.GetHeader(), HeaderBytes),
	)
}

// CheckReceived checks a confirmed offset.
func CheckReceived(r *Received) error {
	return first(checkTransferID(r.GetTransfer(), true), notNegative("offset", r.GetOffset()))
}

// CheckSync checks a request for a Received.
func CheckSync(s *Sync) error {
	return first(checkTransferID(s.GetTransfer(), true), notNegative("offset", s.GetOffset()))
}

// CheckFinish checks the end of a content and its digest, which may be absent.
func CheckFinish(f *Finish) error {
	return first(checkTransferID(f.GetTransfer(), true), CheckDigest(f.GetDigest()))
}

// CheckVerdict checks a transfer's end. A receipt is not asked for: a minimal
// client gives none, and the answer's counts.
func CheckVerdict(v *Verdict) error {
	return first(
		checkEither(v.GetSendId(), v.GetTransfer()),
		enum("receipt", v.GetReceipt(), Receipt_RECEIPT_HANDED, false),
		enum("origin", v.GetOrigin(), Origin_ORIGIN_PEER, false),
		atMost("detail", v.GetDetail(), DetailBytes),
		atMost("header", v.GetHeader(), HeaderBytes),
	)
}

// CheckVerdictAck checks the acknowledgement of a verdict.
func CheckVerdictAck(a *VerdictAck) error { return checkTransferID(a.GetTransfer(), true) }

// CheckDeliveredCancel checks a cancel that the server passes on. Servers before this
// field was known leave the source away.
func CheckDeliveredCancel(c *Cancel) error {
	if c.GetSource() == nil {
		return CheckCancel(c)
	}
	return first(CheckCancel(c), CheckSendID(c.GetSendId()), checkPeer("source", c.GetSource()))
}

// CheckCancel checks a cancel, which names its transfer by either id.
func CheckCancel(c *Cancel) error { return checkEither(c.GetSendId(), c.GetTransfer()) }

// CheckQuery checks the server's question how a transfer stands.
func CheckQuery(q *Query) error {
	return first(
		checkTransferID(q.GetTransfer(), true),
		CheckSendID(q.GetSendId()),
		checkPeer("source", q.GetSource()),
		atMost("url", q.GetUrl(), URLBytes),
		atMost("ticket", q.GetTicket(), TicketBytes),
	)
}

// CheckStanding checks the answer to a Query.
func CheckStanding(s *Standing) error {
	if s.GetState() == TransferState_TRANSFER_STATE_PARTIAL && s.Offset > s.Size {
		return refuse(BadParameter, "offset is behind size")
	}
	return first(
		checkEither(s.GetSendId(), s.GetTransfer()),
		enum("state", s.GetState(), TransferState_TRANSFER_STATE_CANCELLED, true),
		notNegative("offset", s.GetOffset()),
		notNegative("size", s.GetSize()),
		enum("receipt", s.GetReceipt(), Receipt_RECEIPT_HANDED, false),
		atMost("detail", s.GetDetail(), DetailBytes),
	)
}

// CheckPresenceUsers checks the names in a PresenceQuery or PresenceSubscribe.
func CheckPresenceUsers(users []string) error {
	if len(users) > PresenceUsers {
		return refuse(BadParameter, "%d users, at most %d are allowed", len(users), PresenceUsers)
	}
	for _, u := range users {
		if err := CheckTarget(u); err != nil {
			return err
		}
	}
	return nil
}

// CheckFromClient checks a frame that a client has sent. A frame that only a
// server sends, or of an unknown kind, is good: the server's table of frames
// and states decides about it.
func CheckFromClient(f *Frame) error {
	switch b := f.GetBody().(type) {
	case *Frame_Hello:
		return CheckHello(b.Hello)
	case *Frame_UpdateToken:
		return CheckUpdateToken(b.UpdateToken)
	case *Frame_Command:
		return CheckCommand(b.Command)
	case *Frame_CommandAck:
		return CheckCommandAck(b.CommandAck)
	case *Frame_PresenceQuery:
		return CheckPresenceUsers(b.PresenceQuery.GetUsers())
	case *Frame_PresenceSubscribe:
		return CheckPresenceUsers(b.PresenceSubscribe.GetUsers())
	case *Frame_Offer:
		return CheckOffer(b.Offer)
	case *Frame_Answer:
		return CheckAnswer(b.Answer)
	}
	return checkEitherWay(f)
}

// CheckFromServer is CheckFromClient for frames that a server has sent.
func CheckFromServer(f *Frame) error {
	switch b := f.GetBody().(type) {
	case *Frame_Welcome:
		return CheckWelcome(b.Welcome)
	case *Frame_LineOff:
		return atMost("detail", b.LineOff.GetDetail(), DetailBytes)
	case *Frame_TokenUpdated:
		return atMost("detail", b.TokenUpdated.GetDetail(), DetailBytes)
	case *Frame_Command:
		return CheckDeliveredCommand(b.Command)
	case *Frame_CommandResult:
		return CheckCommandResult(b.CommandResult)
	case *Frame_Offer:
		return CheckDeliveredOffer(b.Offer)
	case *Frame_Accepted:
		return CheckAccepted(b.Accepted)
	case *Frame_Query:
		return CheckQuery(b.Query)
	case *Frame_Cancel:
		return CheckDeliveredCancel(b.Cancel)
	}
	return checkEitherWay(f)
}

// checkEitherWay checks the frames that both sides send.
func checkEitherWay(f *Frame) error {
	switch b := f.GetBody().(type) {
	case *Frame_Received:
		return CheckReceived(b.Received)
	case *Frame_Sync:
		return CheckSync(b.Sync)
	case *Frame_Finish:
		return CheckFinish(b.Finish)
	case *Frame_Verdict:
		return CheckVerdict(b.Verdict)
	case *Frame_VerdictAck:
		return CheckVerdictAck(b.VerdictAck)
	case *Frame_Cancel:
		return CheckCancel(b.Cancel)
	case *Frame_Standing:
		return CheckStanding(b.Standing)
	}
	return nil
}
