package server

import (
	"net/url"
	"slices"
	"strings"

	"github.com/dian-im/dian/internal/wire"
	"github.com/dian-im/dian/internal/wiretest"
)

// actorPlace is the instance of the actors' sessions.
const actorPlace = 7

// An aimedID is a transfer's id and what is aimed at with it.
type aimedID struct {
	aim, text string
	id        *transferID // nil: malformed
}

// ids are what an actor may try: what is there, what is not, and what it makes up.
func (w *island) ids(a isolationActor) []aimedID {
	real, err := decodeTransferID(w.viaSession.Transfer)
	if err != nil {
		w.t.Fatal(err)
	}
	n := byte(0)
	forged := func(aim string, change func(id *transferID)) aimedID {
		id := *real
		change(&id)
		if n++; a.owns(&id) {
			id.Send[14] ^= n // of one sendID there is one at a time
			if id.Target == a.user {
				id.Target = "carol" // it would ask itself
			}
		}
		return aimedID{aim, id.encode(), &id}
	}
	web, _ := decodeTransferID(w.viaHTTP.Transfer)
	return []aimedID{
		forged("nothing", func(id *transferID) { id.Send[15] ^= 1 }),
		{"the session's", w.viaSession.Transfer, real},
		{"the HTTP sender's", w.viaHTTP.Transfer, web},
		forged("nothing, to nobody", func(id *transferID) { id.Target = "nobody" }),
		forged("nothing, of another size", func(id *transferID) { id.Size++ }),
		forged("the same in the actor's app", func(id *transferID) { id.App = a.app }),
		forged("the same, from the actor", func(id *transferID) { id.App, id.Source = a.app, a.user }),
		forged("the same, from the actor to nobody", func(id *transferID) { id.App, id.Source, id.Target = a.app, a.user, "nobody" }),
		forged("the same, from the actor to another place", func(id *transferID) {
			id.App, id.Source, id.Instance = a.app, a.user, string(instanceOf(9))
		}),
		forged("the same, to the actor", func(id *transferID) {
			id.App, id.Target, id.Instance = a.app, a.user, string(a.place())
			if a.user == id.Source {
				id.Source = "carol"
			}
		}),
		{"an id in capitals", strings.ToUpper(w.viaSession.Transfer), nil},
		{"the sendID", w.viaSession.SendId, nil},
	}
}

// isolationTargets are whom an actor may address: the victims, nobody, and what looks
// like them (case 40).
var isolationTargets = []string{"nobody", "bob", "alice", "Bob", "b\u043eb", "bob\u200b"}

// requests are all that an actor may ask of the routes with ids and users.
func (w *island) requests(a isolationActor) (all []isolationProbe) {
	tus := []string{"Tus-Resumable", "1.0.0"}
	with := func(more ...string) []string { return append(tus[:2:2], more...) }
	data := with("Content-Type", tusContentType, "Upload-Offset", "3")
	for _, id := range w.ids(a) {
		add := func(shape, route, method, path string, headers []string, body string) {
			all = append(all, isolationProbe{shape: shape, aim: id.aim, route: route, id: id.id, method: method,
				path: lanePathPrefix + id.text + path, headers: headers, body: body})
		}
		add("HEAD", "HEAD", "HEAD", "", tus, "")
		add("PATCH", "PATCH", "PATCH", "", data, "1234567")
		add("POST as HEAD", "HEAD", "POST", "", with("X-HTTP-Method-Override", "HEAD"), "")
		add("POST as PATCH", "PATCH", "POST", "", append(data[:6:6], "X-HTTP-Method-Override", "PATCH"), "1234567")
		add("DELETE", "DELETE", "DELETE", "", tus, "")
		add("POST as DELETE", "DELETE", "POST", "", with("X-HTTP-Method-Override", "DELETE"), "")
		add("OPTIONS", "OPTIONS", "OPTIONS", "", tus, "")
		add("PUT an id", "method", "PUT", "", tus, "1234567")
		add("GET with a token", "lane", "GET", "", nil, "")
		add("GET from the middle", "lane", "GET", "", []string{"Range", "bytes=3-4"}, "")
		add("GET with a wrong ticket", "lane", "GET", "", []string{"Authorization", "Ticket " + strings.Repeat("A", 26)}, "")
		add("GET with an empty ticket", "lane", "GET", "", []string{"Authorization", "Ticket "}, "")
		add("GET with a ticket in the query", "lane", "GET", "?ticket="+strings.Repeat("A", 26), nil, "")
		if id.text != w.viaHTTP.Transfer {
			add("GET with another transfer's ticket", "lane", "GET", "", []string{"Authorization", "Ticket " + w.viaHTTP.Ticket}, "")
		}
	}
	for _, target := range isolationTargets {
		at := "/v1/users/" + url.PathEscape(target)
		add := func(shape, route, method, path string, headers []string, body string) {
			all = append(all, isolationProbe{shape: shape, aim: target, route: route, target: target, method: method, path: at + path, headers: headers, body: body})
		}
		add("POST command", "command", "POST", "/commands", nil, "x")
		add("POST command with the victims' id", "command", "POST", "/commands", []string{"Dian-Send-Id", w.pending.Id}, "x")
		for _, id := range []struct{ name, sendID string }{{"an id", ""}, {"the session's id", w.viaSession.SendId}, {"the HTTP sender's id", w.viaHTTP.SendId}} {
			length, content, named := with("Upload-Length", "10"), "", []string(nil)
			if id.sendID != "" {
				length, named = append(length, "Upload-Metadata", "sendId "+base64Text(id.sendID)), []string{"Dian-Send-Id", id.sendID}
			}
			add("tus POST with "+id.name, "create", "POST", "/transfers", length, content)
			add("tus POST and content with "+id.name, "create", "POST", "/transfers", append(length[:len(length):len(length)], "Content-Type", tusContentType), "0123456789")
			add("PUT with "+id.name, "put", "PUT", "/files/x", named, "0123456789")
		}
		add("GET user", "user", "GET", "", nil, "")
	}
	return append(all, isolationProbe{shape: "GET users", aim: "everybody", route: "users", method: "GET", path: "/v1/users"})
}

// messages are all frames that an actor may send.
func (w *island) messages(a isolationActor, tokens map[string]string) (all []isolationProbe) {
	for _, id := range w.ids(a) {
		add := func(shape string, f *wire.Frame) {
			all = append(all, isolationProbe{shape: shape, aim: id.aim, id: id.id, frame: f})
		}
		add("Finish", &wire.Frame{Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: id.text}}})
		add("VerdictAck", &wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: id.text}}})
		add("Cancel", &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{Transfer: id.text}}})
		add("Answer(accept)", answerAccept(id.text, 5))
		add("Answer(refuse)", &wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{Transfer: id.text, Decision: wire.Decision_DECISION_REFUSE, Code: 606}}})
		add("Answer(have)", &wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{Transfer: id.text, Decision: wire.Decision_DECISION_HAVE}}})
		add("Received", &wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: id.text, Offset: 3}}})
		add("Verdict(0)", &wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: id.text, Receipt: wire.Receipt_RECEIPT_STORED}}})
		add("Verdict(1110)", &wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: id.text, Code: 1110}}})
		for _, state := range []wire.TransferState{1, 2, 3, 4} {
			add("Standing("+state.String()+")", &wire.Frame{Body: &wire.Frame_Standing{Standing: &wire.Standing{Transfer: id.text, State: state, Size: islandSize}}})
		}
	}
	for aim, sendID := range map[string]string{"nothing": wire.NewSendID(), "the session's": w.viaSession.SendId, "the HTTP sender's": w.viaHTTP.SendId} {
		all = append(all, isolationProbe{shape: "Cancel of a sendID", aim: aim, frame: &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{SendId: sendID}}}})
	}
	for aim, ack := range map[string]*wire.CommandAck{
		"nothing":     {Ref: w.pending.Ref + 1<<slotBits, Id: wire.NewSendID(), Outcome: final},
		"the ref":     {Ref: w.pending.Ref, Id: wire.NewSendID(), Outcome: final},
		"the id":      {Ref: w.pending.Ref + 1<<slotBits, Id: w.pending.Id, Outcome: final},
		"the command": {Ref: w.pending.Ref, Id: w.pending.Id, Outcome: final},
	} {
		all = append(all, isolationProbe{shape: "CommandAck", aim: aim, frame: ackFrame(ack)})
	}
	return append(append(all, w.addressed(a)...), w.others(tokens)...)
}

// addressed are the frames with a target, or with users.
func (w *island) addressed(a isolationActor) (all []isolationProbe) {
	alice := &wire.Peer{User: "alice", Instance: instanceOf(1)}
	for _, target := range isolationTargets {
		add := func(shape string, f *wire.Frame) {
			all = append(all, isolationProbe{shape: shape, aim: target, target: target, frame: f})
		}
		add("Command", commandFrame(&wire.Command{Id: wire.NewSendID(), Target: target}))
		add("Command with the victims' id, ref and source", commandFrame(&wire.Command{Id: w.pending.Id, Ref: w.pending.Ref, Source: alice, Target: target}))
		add("Command of a stream", commandFrame(&wire.Command{Id: wire.NewSendID(), Target: target, Stream: 5, Seq: 1, Floor: 1, Source: alice}))
		offer := func(shape string, change func(o *wire.Offer)) {
			o := &wire.Offer{SendId: wire.NewSendID(), Target: target, Kind: wire.Kind_KIND_FILE, Size: islandSize}
			change(o)
			add(shape, &wire.Frame{Body: &wire.Frame_Offer{Offer: o}})
		}
		offer("Offer", func(*wire.Offer) {})
		offer("Offer of a place", func(o *wire.Offer) { o.Instance = instanceOf(9) })
		offer("Offer of bob's place", func(o *wire.Offer) { o.Instance = instanceBob })
		offer("Offer, inline", func(o *wire.Offer) { o.Size, o.Inlined, o.Inline = 3, true, []byte("abc") })
		offer("Offer with the session's id", func(o *wire.Offer) { o.SendId = w.viaSession.SendId })
		offer("Offer with the HTTP sender's id", func(o *wire.Offer) { o.SendId = w.viaHTTP.SendId })
		offer("Offer with all that is the victims'", func(o *wire.Offer) {
			o.SendId, o.Transfer, o.Url, o.Ticket, o.Source, o.Resent = w.viaSession.SendId, w.viaSession.Transfer, w.viaSession.Url, w.viaHTTP.Ticket, alice, true
		})
	}
	for aim, users := range map[string][]string{"nobody": {"nobody"}, "bob": {"bob"}, "alice": {"alice"}, "everybody": nil, "bob and nobody": {"bob", "nobody"}, "Bob": {"Bob"}} {
		all = append(all,
			isolationProbe{shape: "PresenceQuery", aim: aim, frame: &wire.Frame{Body: &wire.Frame_PresenceQuery{PresenceQuery: &wire.PresenceQuery{Id: 5, Users: users}}}},
			isolationProbe{shape: "PresenceSubscribe", aim: aim, frame: &wire.Frame{Body: &wire.Frame_PresenceSubscribe{PresenceSubscribe: &wire.PresenceSubscribe{Id: 5, Users: users}}}})
	}
	return all
}

// others are the frames of which none is for somebody.
func (w *island) others(tokens map[string]string) (all []isolationProbe) {
	for aim, token := range tokens {
		all = append(all, isolationProbe{shape: "UpdateToken", aim: aim, frame: &wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: token}}}})
	}
	known := map[string]any{
		"id": w.pending.Id, "send_id": w.viaSession.SendId, "target": "bob", "user": "bob", "app": victimApp, "instance": instanceBob,
		"transfer": w.viaSession.Transfer, "url": w.viaSession.Url, "ticket": w.viaHTTP.Ticket, "token": "x",
	}
	for _, v := range wiretest.Variants(known) { // what is the server's to send
		if v.Name == "plausible" && !slices.Contains(sentByAll, v.Kind) && !slices.Contains(sentByListeners, v.Kind) || v.Kind == "Status" && v.Name == "plausible" {
			all = append(all, isolationProbe{shape: v.Kind, aim: "the victims", frame: v.Frame})
		}
	}
	return all
}
