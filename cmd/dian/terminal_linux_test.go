package main

import (
	"io"
	"os"
	"os/exec"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// cmdTerminal starts a program on a terminal of its own.
func cmdTerminal(ts *testscript.TestScript, _ bool, args []string) {
	launch(ts, args, func(cmd *exec.Cmd) func() {
		control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
		ts.Check(err)
		fd := int(control.Fd())
		ts.Check(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
		number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		ts.Check(err)
		screen, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
		ts.Check(err)
		ts.Check(unix.IoctlSetWinsize(int(screen.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}))
		cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
		cmd.Env = append(cmd.Env, "TERM=xterm")
		out, err := os.Create(ts.MkAbs(args[0] + ".out"))
		ts.Check(err)
		read := make(chan struct{})
		go func() {
			defer close(read)
			io.Copy(out, control) // ends with EIO when nobody has the terminal open
			out.Close()
		}()
		return func() {
			screen.Close()
			<-read
			control.Close()
		}
	})
}
