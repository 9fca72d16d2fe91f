package dian

import (
	"os"

	"github.com/dian-im/dian/internal/inbox"
)

// FileData is a file that has arrived: whole, verified, flushed and kept in the
// receive folder. There it stays for 7 days after NotifyFileData has returned;
// SaveAs, or any other move of Path, makes it the application's.
type FileData struct {
	Source   string // the user who sent it
	SendID   string
	Name     string // as sent: data, hostile for all we know, and never a path
	SafeName string // a name for it that is safe to create on any system
	Path     string // where it is now, absolute; empty after AcceptWriter
	Type     string // media type as sent, may be empty
	Size     int64
	Meta     []byte  // at most 4,096 bytes
	Receipt  Receipt // Stored, or Handed after AcceptWriter

	file *inbox.File
}

// SaveAs moves the file to dest and returns its new absolute path. If dest is a
// folder the file goes there under its SafeName. It never replaces anything: a
// taken name becomes "photo (1).jpg" and so on. It can be saved once, and before
// the client is closed. Any goroutine may call it, also after the callback. Links in
// dest are followed; see SaveIn for a folder that others could swap.
func (f FileData) SaveAs(dest string) (string, error) {
	if f.file == nil {
		return "", localError("save file", "", ErrFileNotFound, "it was written elsewhere", nil)
	}
	path, err := f.file.SaveAs(dest)
	if err != nil {
		return "", localError("save file", "", ErrFileWrite, "", err)
	}
	return path, nil
}

// SaveIn is SaveAs into a folder that is open already: the file goes there and
// nowhere else, even if its path leads to another folder by now. The folder stays
// open, and the path returned begins with its Name.
func (f FileData) SaveIn(dir *os.Root) (string, error) {
	if f.file == nil {
		return "", localError("save file", "", ErrFileNotFound, "it was written elsewhere", nil)
	}
	path, err := f.file.SaveIn(dir)
	if err != nil {
		return "", localError("save file", "", ErrFileWrite, "", err)
	}
	return path, nil
}

func fileData(f *inbox.File) FileData {
	return FileData{
		Source: f.Key.Source, SendID: f.Key.SendID, Name: f.Info.Name, SafeName: inbox.SafeName(f.Info.Name),
		Path: f.Path(), Type: f.Info.Type, Size: f.Info.Size, Meta: f.Info.Meta, Receipt: Stored, file: f,
	}
}
