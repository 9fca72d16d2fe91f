package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// The file of revocations is text: a first line that names the format, one JSON
// object a line, and a last line with the SHA-256 of all lines before it. A file
// that ends early or was changed by accident does not pass for a shorter list.
const (
	revocationsHead     = "dian-revocations 1\n"
	revocationsSum      = "sha256 "
	maxRevocationsBytes = 256 << 20
)

// encodeRevocations returns the file of a list.
func encodeRevocations(list []Revocation) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(revocationsHead)
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for i := range list {
		if err := enc.Encode(&list[i]); err != nil { // a year that JSON does not know
			return nil, err
		}
	}
	sum := sha256.Sum256(b.Bytes())
	return fmt.Appendf(b.Bytes(), "%s%x\n", revocationsSum, sum), nil
}

// decodeRevocations reads what encodeRevocations made. An error names the place
// and nothing of the content.
func decodeRevocations(data []byte) ([]Revocation, error) {
	rest, ok := bytes.CutPrefix(data, []byte(revocationsHead))
	if !ok {
		return nil, errors.New("the first line is not " + revocationsHead[:len(revocationsHead)-1])
	}
	const tail = len(revocationsSum) + 2*sha256.Size + 1
	if len(rest) < tail {
		return nil, errors.New("it ends too early")
	}
	rest, last := rest[:len(rest)-tail], string(rest[len(rest)-tail:])
	sum := sha256.Sum256(data[:len(data)-tail])
	if last != revocationsSum+hex.EncodeToString(sum[:])+"\n" {
		return nil, errors.New("it ends too early, or was changed: its last line is not the SHA-256 of the others")
	}
	var list []Revocation
	ids := map[string]bool{}
	for number := 2; len(rest) > 0; number++ {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		rest = after
		var r Revocation
		if err := decodeStrict(line, &r); err != nil || !ok {
			return nil, fmt.Errorf("line %d is not an entry", number)
		}
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if !isHex(r.ID, 8) || ids[r.ID] {
			return nil, fmt.Errorf("line %d has no id of its own", number)
		}
		ids[r.ID] = true
		list = append(list, r)
	}
	if len(list) > maxRevocations {
		return nil, fmt.Errorf("more than %d entries", maxRevocations)
	}
	return list, nil
}

// decodeStrict reads exactly one JSON value, and no member that into does not have.
func decodeStrict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// loadRevocations reads the file at path. With create it is made if it is not
// there, so that a folder that cannot be written to is found at the start and not
// on the day of need. Later a missing file is an error: somebody has lost it.
func loadRevocations(path string, create bool) ([]Revocation, error) {
	_, err := os.Lstat(path)
	if create && errors.Is(err, os.ErrNotExist) {
		if err := saveRevocations(path, nil); err != nil {
			return nil, fmt.Errorf("revocations_file: %w", err)
		}
		return nil, nil
	}
	data, err := readSmallFile(path, maxRevocationsBytes)
	if err != nil {
		return nil, fmt.Errorf("revocations_file: %w", err)
	}
	list, err := decodeRevocations(data)
	if err != nil {
		return nil, fmt.Errorf("revocations_file: %q is damaged: %w; put a copy from a backup in its place (without the file nothing would be revoked)", path, err)
	}
	return list, nil
}

// saveRevocations replaces the file at path, so that a crash leaves the old or
// the new one. It has mode 0600: names of users are in it.
func saveRevocations(path string, list []Revocation) error {
	data, err := encodeRevocations(list)
	if err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) { // what a crash has left
		return fmt.Errorf("write %q: %w", path, bare(err))
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write %q: %w", path, bare(err))
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
	} else {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", path, bare(err))
	}
	return nil
}

// syncFolder makes a rename durable. Windows cannot, and journals it.
func syncFolder(folder string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
