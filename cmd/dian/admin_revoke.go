package main

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/dian-im/dian/server"
)

type adminRevokeCmd struct {
	adminConnection `embed:""`
	User            string        `arg:"" optional:"" help:"All tokens of this user."`
	App             string        `placeholder:"APP" help:"Of which app; needed unless --token-file says it."`
	IssuedBefore    string        `placeholder:"TIME|now" help:"Only those issued before a time like 2026-10-01T12:00:00Z, and those that do not say when; with now the user can log in with a token that is made a minute later."`
	Token           string        `name:"token-file" placeholder:"FILE" help:"One token: the one in this file."`
	JTI             string        `name:"jti" placeholder:"ID" help:"One token: the one with this jti."`
	SHA256          string        `name:"sha256" placeholder:"HEX" help:"One token: the one whose text has this SHA-256."`
	For             time.Duration `placeholder:"DURATION" help:"End the revocation by itself after this time."`
	Reason          string        `placeholder:"TEXT" help:"For operators, kept with it."`
}

// Run revokes.
func (c *adminRevokeCmd) Run(con *console) error {
	body := map[string]any{}
	set := func(name, value string) int {
		if value == "" {
			return 0
		}
		body[name] = value
		return 1
	}
	named := set("user", c.User) + set("jti", c.JTI) + set("sha256", c.SHA256)
	if c.Token != "" {
		named++
		token, err := readToken(c.Token)
		if err != nil {
			return usage("--token-file: %s", err)
		}
		body["token"] = token
	}
	switch {
	case named != 1:
		return usage("name one thing to revoke: a user, --token-file, --jti or --sha256")
	case c.App == "" && c.Token == "":
		return usage("--app: say of which app")
	case c.Token != "" && (c.App != "" || c.For != 0):
		return usage("with --token-file leave --app and --for away: the token says both")
	case c.For < 0:
		return usage("--for: not a time to come")
	case c.IssuedBefore != "" && c.User == "":
		return usage("--issued-before goes with a user")
	}
	set("app", c.App)
	set("reason", c.Reason)
	if c.For > 0 {
		body["expires"] = time.Now().Add(c.For)
	}
	if c.IssuedBefore == "now" {
		body["upToNow"] = true
	} else if c.IssuedBefore != "" {
		at, err := time.Parse(time.RFC3339, c.IssuedBefore)
		if err != nil {
			return usage("--issued-before: write it like 2026-10-01T12:00:00Z, or now")
		}
		body["issuedBefore"] = at
	}
	return c.with(con, func(ctx context.Context, a *adminClient) error {
		var result server.RevokeResult
		if err := a.call(ctx, http.MethodPost, "/admin/v1/revocations", body, &result); err != nil {
			return err
		}
		con.tell(revokeEvent{"revoke", result})
		con.say("%s; sessions ended: %d", revocationText(&result.Revocation), result.Ended)
		if !result.Kept {
			con.warn("it is in force, and a restart of the relay forgets it: %s", quote(result.Problem))
			return status(statusFailed)
		}
		return nil
	})
}

// revocationText is a revocation in one line.
func revocationText(r *server.Revocation) string {
	parts := []string{plain(r.ID), quote(r.App)}
	switch {
	case r.JTI != "":
		parts = append(parts, "token with jti "+quote(r.JTI))
	case r.SHA256 != "":
		parts = append(parts, "token with SHA-256 "+plain(r.SHA256))
	case r.IssuedBefore.IsZero():
		parts = append(parts, "all tokens of "+quote(r.User))
	default:
		parts = append(parts, "tokens of "+quote(r.User)+" issued before "+stamp(r.IssuedBefore))
	}
	parts = append(parts, "since "+stamp(r.Created))
	if !r.Expires.IsZero() {
		parts = append(parts, "until "+stamp(r.Expires))
	}
	if r.Reason != "" {
		parts = append(parts, quote(r.Reason))
	}
	return strings.Join(parts, " ")
}

type adminUnrevokeCmd struct {
	adminConnection `embed:""`
	IDs             []string `arg:"" name:"id" help:"Which, as dian admin revocations lists them."`
}

// Run lifts revocations, one after the other until one fails.
func (c *adminUnrevokeCmd) Run(con *console) error {
	return c.with(con, func(ctx context.Context, a *adminClient) error {
		for _, id := range c.IDs {
			if id == "" || strings.Trim(id, "0123456789abcdef") != "" {
				return usage("%s is no revocation's id", quote(id))
			}
			var lifted server.Revocation
			if err := a.call(ctx, http.MethodDelete, "/admin/v1/revocations/"+id, nil, &lifted); err != nil {
				return err
			}
			con.tell(revocationEvent{"unrevoke", lifted})
			con.say("lifted %s", revocationText(&lifted))
		}
		return nil
	})
}

type adminRevocationsCmd struct {
	adminConnection `embed:""`
	filter          `embed:""`
}

// Run lists the revocations in force.
func (c *adminRevocationsCmd) Run(con *console) error {
	return c.with(con, func(ctx context.Context, a *adminClient) error {
		return a.pages(c.query(), func(query string) (string, error) {
			var list server.RevocationList
			err := a.call(ctx, http.MethodGet, "/admin/v1/revocations"+query, nil, &list)
			for i := range list.Revocations {
				con.tell(revocationEvent{"revocation", list.Revocations[i]})
				con.say("%s", revocationText(&list.Revocations[i]))
			}
			return list.Next, err
		})
	})
}
