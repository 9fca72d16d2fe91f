// Package inbox keeps received files on disk: it is what the receiver knows.
//
// A transfer arrives as a part: a file with a random name in a folder of the
// inbox's own, reached through os.Root, and a journal beside it that says how far
// its bytes can be trusted. When all bytes are there and verified, the part is
// kept:
//
//	flush the part → rename it without replacing → flush the folder → ledger
//
// and only then may anybody be told. A crash before the ledger's record leaves a
// part to go on with; a crash after it leaves a kept file whose notification may
// be repeated. Nothing is ever reported that is not there, and what peers say about
// a file (its name, type, meta) is data and never part of a path.
//
// # Files of the folder
//
//	lock              held while an Inbox is open
//	instance          who this receiving place is, 16 bytes
//	ledger            one record per kept or cancelled transfer
//	<random>.part     bytes of an unfinished transfer
//	<random>.journal  how many of them are on the disk, and their block digests
//	<random>.mark     how many were taken when a peer last asked; not flushed
//	<random>.file     a kept file, the application's from then on. One that is saved
//	                  elsewhere keeps this name, too, until the application was told
//
// A journal is never ahead of its part: the part is flushed first. Bytes below a
// journal's offset are never written again under the same random name, so an old
// journal that a power loss brings back still tells the truth. A mark may be ahead
// of what survives a power loss, so the bytes between journal and mark are read
// again and compared before they are trusted.
//
// # Many small files at once
//
// Callers of Keep and Put flush their own file, which the kernel merges, and then
// queue for one committer goroutine. It takes everybody who waits, renames all
// their parts, flushes the folder once, appends all ledger records with one write,
// flushes the ledger once and answers them all. While it does, the next ones
// gather. Nobody waits for company.
//
// # What "on the disk" means
//
//   - Linux and BSD: fsync (fdatasync for the journal's steps on Linux); folders
//     are flushed too. A disk that lies about its cache is beyond us.
//   - macOS: F_FULLFSYNC, which flushes the drive's cache as well.
//   - Windows: FlushFileBuffers of files and ledger. Folders cannot be flushed
//     there; names are left to NTFS's own journal, and a ledger record without
//     its file counts as taken away.
//
// A failed flush is final for its part: the kernel may have dropped the pages, so
// asking again could succeed without the bytes.
package inbox
