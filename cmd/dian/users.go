package main

import (
	"context"
	"time"

	"github.com/dian-im/dian"
)

// queryTimeout bounds how long a list of users may take.
const queryTimeout = 30 * time.Second

// usersCmd is `dian users`.
type usersCmd struct {
	connection `embed:""`
	JSON       bool     `name:"json" help:"Print JSON events."`
	Watch      bool     `help:"Go on and tell every change."`
	Users      []string `arg:"" optional:"" name:"user" help:"Of whom; everybody online whom the token may see unless given."`
}

// Run tells who is online.
func (c *usersCmd) Run(con *console) error {
	con.json = c.JSON
	ctx, stop := interruptible()
	defer stop()
	client, err := c.connect(ctx, con, dian.WithSendOnly(), dian.WithHandler(con.lineTold(dian.Handler{
		NotifyUserStatus: con.tellUsers,
	})))
	if err != nil {
		return err
	}
	defer logOut(client)
	asking, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if c.Watch {
		if err := client.StartUserStatusNotify(asking, c.Users...); err != nil {
			return c.failed(ctx, con, err)
		}
		return con.untilOff(ctx, client)
	}
	list, err := client.UserStatus(asking, c.Users...)
	if err != nil {
		return c.failed(ctx, con, err)
	}
	con.tellUsers(list)
	return nil
}

func (c *usersCmd) failed(ctx context.Context, con *console, err error) error {
	if s, ok := interrupted(ctx); ok {
		return s
	}
	con.warn("users: %s", describe(err))
	return status(statusFailed)
}

// tellUsers tells the state of users, one line each.
func (c *console) tellUsers(list []dian.UserStatus) {
	for _, u := range list {
		c.tell(userEvent{"user", u.User, u.Status.String(), u.DoNotDisturb})
		if u.DoNotDisturb != 0 {
			c.say("%s %s, do not disturb %d", quote(u.User), u.Status, u.DoNotDisturb)
			continue
		}
		c.say("%s %s", quote(u.User), u.Status)
	}
}
