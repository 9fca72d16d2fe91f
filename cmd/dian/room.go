package main

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/dian-im/dian/server"
)

// openRoom prints the link that lets a device in the room in, and a new one each time
// that one was used.
func openRoom(con *console, config server.Config, at net.Addr) {
	scheme := "http"
	if config.TLS.CertFile != "" {
		scheme = "https"
	}
	urls := server.RoomURLs(at, scheme)
	if len(urls) == 0 {
		con.warn("--lan: no other machine can reach %s; is there a network?", at)
		return
	}
	config.Room.Opened(urls, func(user string) {
		con.say("%s came in by it; the next device needs a new one:", quote(user))
		con.invite(config.Room)
	})
	con.say("for a phone in this room, once, within 10 minutes:")
	con.invite(config.Room)
	if len(urls) > 1 {
		con.say("this machine has other addresses too: %s", strings.Join(urls[1:], " "))
	}
}

// invite prints an invitation.
func (c *console) invite(room *server.Room) {
	i, err := room.Invite()
	if err != nil {
		c.warn("--lan: %s", err)
		return
	}
	if rows, err := i.QR(); err == nil {
		c.print([]byte("\n" + drawQR(rows, isTerminal(c.out) && os.Getenv("NO_COLOR") == "") + "\n\n")) // nobody's but ours
	}
	c.say("%s", i.URL)
}

// drawQR draws a QR code with two modules in a character. A scanner wants dark on
// light: with colours it gets that on any terminal, otherwise on one that is dark.
func drawQR(rows []string, colours bool) string {
	const quiet = 2
	size := len(rows)
	dark := func(x, y int) bool {
		x, y = x-quiet, y-quiet
		return x >= 0 && y >= 0 && x < size && y < size && rows[y][x] == '1'
	}
	var b strings.Builder
	for y := 0; y < size+2*quiet; y += 2 {
		if y > 0 {
			b.WriteByte('\n')
		}
		if colours {
			b.WriteString("\x1b[97;40m")
		}
		for x := range size + 2*quiet {
			// What is light is drawn.
			fmt.Fprint(&b, map[[2]bool]string{{false, false}: "█", {false, true}: "▀", {true, false}: "▄", {true, true}: " "}[[2]bool{dark(x, y), dark(x, y+1)}])
		}
		if colours {
			b.WriteString("\x1b[0m")
		}
	}
	return b.String()
}
