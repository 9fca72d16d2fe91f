// Package dian sends commands, memory buffers and files of any size from one
// logged-in user to another, through a relay that never looks into them.
//
//	client, err := dian.Connect(ctx, "https://relay.example.com",
//		dian.WithToken(token), // a JWT: sub is the user, aud the app
//		dian.WithHandler(dian.Handler{
//			NotifyCmdData:  func(m dian.CmdData) { log.Printf("%s says %q", m.Source, m.Data) },
//			NotifyFileData: func(m dian.FileData) { path, err := m.SaveAs("Downloads"); … },
//		}))
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//
//	task := client.SendFile("bob", "photo.jpg")
//	err = task.Wait(ctx) // or Handler.SendFileResult, or both
//	if errors.Is(err, dian.ErrPeerOffline) {
//		// nobody is there: dian.WithWaitForPeer would have waited
//	}
//
// # What a result means
//
// Every SendCmd, SendBuffer, SendFile and SendReader is a Task and ends with
// exactly one Result. Without an error the receiver has it: a command is in its
// queue, in order and once; a buffer or file is complete and verified, and a file
// flushed to its disk (Receipt Stored). Everything else is an *Error with the Code
// that docs/protocol.md lists.
//
// # Lost lines
//
// A client reconnects by itself, and its tasks go on where the receiver is. They
// end with ErrConnectionLost only when the line is down for longer than the resume
// window; the client goes on trying. The line is off for good, and NotifyLineOff
// tells so, when a newer login took the user's place (ErrKicked), the token expired
// or was refused.
//
// # Callbacks
//
// A Handler's functions run one after the other on one goroutine. They may call
// everything in this package. What they do for long delays other callbacks, but
// never the session or a transfer.
package dian
