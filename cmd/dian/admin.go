package main

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/dian-im/dian/server"
)

// adminCmd is `dian admin`: what an operator can see and do on a running relay.
type adminCmd struct {
	Sessions    adminSessionsCmd    `cmd:"" help:"List who is logged in."`
	Transfers   adminTransfersCmd   `cmd:"" help:"List what is under way."`
	Kick        adminKickCmd        `cmd:"" help:"End a user's sessions."`
	Cancel      adminCancelCmd      `cmd:"" help:"Cancel a transfer."`
	Revoke      adminRevokeCmd      `cmd:"" help:"Refuse a user's tokens, or one token, from now on."`
	Unrevoke    adminUnrevokeCmd    `cmd:"" help:"Lift revocations."`
	Revocations adminRevocationsCmd `cmd:"" help:"List revocations."`
	Token       adminTokenCmd       `cmd:"" help:"Make an admin token."`
	Alias       adminAliasCmd       `cmd:"" help:"Tell what stands for a user in an audit with audit.user_key."`
}

// The events of `dian admin --json`.
type (
	sessionEvent struct {
		Event string `json:"event"`
		server.SessionInfo
	}
	transferEvent struct {
		Event string `json:"event"`
		server.TransferInfo
	}
	kickEvent struct {
		Event string `json:"event"`
		server.KickResult
	}
	adminCancelEvent struct {
		Event string `json:"event"`
		server.CancelResult
	}
	revocationEvent struct {
		Event string `json:"event"`
		server.Revocation
	}
	revokeEvent struct {
		Event string `json:"event"`
		server.RevokeResult
	}
)

// filter is what lists can be narrowed to.
type filter struct {
	App  string `placeholder:"APP" help:"Only this app."`
	User string `placeholder:"USER" help:"Only this user."`
}

func (f filter) query() url.Values {
	q := url.Values{}
	if f.App != "" {
		q.Set("app", f.App)
	}
	if f.User != "" {
		q.Set("user", f.User)
	}
	return q
}

type adminSessionsCmd struct {
	adminConnection `embed:""`
	filter          `embed:""`
}

// Run lists sessions, the oldest first.
func (c *adminSessionsCmd) Run(con *console) error {
	return c.with(con, func(ctx context.Context, a *adminClient) error {
		return a.pages(c.query(), func(query string) (string, error) {
			var list server.SessionList
			err := a.call(ctx, http.MethodGet, "/admin/v1/sessions"+query, nil, &list)
			for _, s := range list.Sessions {
				con.tell(sessionEvent{"session", s})
				con.say("%d %s %s %s over %s since %s from %s, %s queued, token until %s", s.Session, quote(s.App), quote(s.User), plain(s.Role),
					plain(s.Protocol), stamp(s.Since), plain(s.Address), sizeText(int64(s.QueuedBytes)), stamp(s.TokenExpires))
			}
			return list.Next, err
		})
	})
}

type adminTransfersCmd struct {
	adminConnection `embed:""`
	filter          `embed:""`
}

// Run lists transfers.
func (c *adminTransfersCmd) Run(con *console) error {
	return c.with(con, func(ctx context.Context, a *adminClient) error {
		return a.pages(c.query(), func(query string) (string, error) {
			var list server.TransferList
			err := a.call(ctx, http.MethodGet, "/admin/v1/transfers"+query, nil, &list)
			for _, t := range list.Transfers {
				con.tell(transferEvent{"transfer", t})
				con.say("%s %s %s to %s: %s, %s, %s of %s, %s/s, for %s", plain(t.SendID), quote(t.App), quote(t.From), quote(t.To), plain(t.Kind),
					plain(t.State), sizeText(t.Offset), sizeText(t.Size), sizeText(int64(t.Rate)),
					(time.Duration(t.AgeMillis) * time.Millisecond).Round(time.Second))
			}
			return list.Next, err
		})
	})
}

type adminKickCmd struct {
	adminConnection `embed:""`
	User            string `arg:"" help:"Whose sessions."`
	App             string `required:"" placeholder:"APP" help:"Of which app."`
	Session         uint64 `placeholder:"NUMBER" help:"Only the one with this number."`
}

// Run ends sessions.
func (c *adminKickCmd) Run(con *console) error {
	return c.with(con, func(ctx context.Context, a *adminClient) error {
		body := map[string]any{"app": c.App, "user": c.User, "session": c.Session}
		var result server.KickResult
		if err := a.call(ctx, http.MethodPost, "/admin/v1/kick", body, &result); err != nil {
			return err
		}
		con.tell(kickEvent{"kick", result})
		con.say("kicked %s; sessions ended: %d", quote(c.User), result.Kicked)
		return nil
	})
}

type adminCancelCmd struct {
	adminConnection `embed:""`
	SendID          string `arg:"" name:"sendId" help:"Which task."`
	App             string `placeholder:"APP" help:"Of which app, if several users have used this sendId."`
	From            string `placeholder:"USER" help:"Of whom, likewise."`
}

// Run cancels transfers.
func (c *adminCancelCmd) Run(con *console) error {
	return c.with(con, func(ctx context.Context, a *adminClient) error {
		body := map[string]any{"sendId": c.SendID, "app": c.App, "from": c.From}
		var result server.CancelResult
		if err := a.call(ctx, http.MethodPost, "/admin/v1/cancel", body, &result); err != nil {
			return err
		}
		con.tell(adminCancelEvent{"cancelled", result})
		con.say("cancelled %d; of %d the receiver has everything and decides", result.Cancelled, result.Deciding)
		return nil
	})
}

type adminTokenCmd struct {
	File string `arg:"" placeholder:"FILE" help:"The file to make; it must not be there yet."`
}

// Run makes a file with a new admin token, that nobody else can read.
func (c *adminTokenCmd) Run(con *console) error {
	f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.WriteString(rand.Text() + rand.Text() + "\n") // 260 bits
		err = errors.Join(err, f.Close())
	}
	if p, ok := errors.AsType[*os.PathError](err); ok {
		err = p.Err
	}
	if err != nil {
		return usage("make %s: %s", quote(c.File), err)
	}
	return nil
}

type adminAliasCmd struct {
	Users   []string `arg:"" name:"user" help:"Of whom."`
	App     string   `required:"" placeholder:"APP" help:"Of which app."`
	KeyFile string   `required:"" placeholder:"FILE" help:"The file of audit.user_key_file."`
}

// Run prints the aliases of users.
func (c *adminAliasCmd) Run(con *console) error {
	key, err := readSmall(c.KeyFile, 4<<10)
	if err != nil {
		return usage("--key-file: %s", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(key), "\n"), "\r")
	if text == "" {
		return usage("--key-file: %s is empty", quote(c.KeyFile))
	}
	for _, user := range c.Users {
		con.say("%s", server.AuditAlias(server.NewSecret([]byte(text)), c.App, user))
	}
	return nil
}

// stamp is a time for people and programs.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// plain is a word of the relay's own: as it is if that is all it is.
func plain(s string) string {
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return quote(s)
		}
	}
	if s == "" {
		return "nowhere"
	}
	return s
}
