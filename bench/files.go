package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const smallFile = 10 << 10

// smallFiles sends many small files to a real disk, beside loops that write and flush
// such files into the same folder.
func (b *bench) smallFiles() error {
	dir, err := os.MkdirTemp(b.disk, "dian-bench-")
	if err != nil {
		return err
	}
	b.atEnd(func() { os.RemoveAll(dir) })
	kind, err := fileSystem(dir)
	if err != nil {
		return err
	}
	content, err := b.file("small-file.bin", smallFile)
	if err != nil {
		return err
	}
	var paths []string
	for i := range b.files {
		path := filepath.Join(b.dir, fmt.Sprintf("f%05d.bin", i))
		if err := os.Link(content, path); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		b.atEnd(func() { os.Remove(path) })
		paths = append(paths, path)
	}
	round := 0 // a folder for each: ext4 creates files slowly while many were just deleted
	fresh := func(name string) string {
		round++
		return filepath.Join(dir, fmt.Sprintf("%s-%d", name, round))
	}
	const plain = "write and fsync, one by one"
	t := &table{
		Name: "files", Title: fmt.Sprintf("%s files of %d KiB to a disk", count(b.files), smallFile>>10),
		Columns: []column{{Name: "files/s", Ratio: "÷ " + plain}},
		Notes: []string{
			fmt.Sprintf("From tmpfs to %s (%s). Each file is on the disk when it counts: Dian reports a file when it is flushed and renamed.", b.disk, kind),
			"The loops create, write, fsync and close such files in one folder, one by one or 64 at once; there is no network, hash or rename in them.",
			"Dian over TLS, one `dian send` with all files, from its start to its end: 4 files at a time, which is its default, and 64.",
		},
	}
	loop := func(name, limit string, atOnce int) contestant {
		return contestant{name, limit, func() (func() (figuresOf, error), error) {
			return func() (figuresOf, error) {
				took, err := writeFiles(fresh("loop"), content, b.files, atOnce)
				return figuresOf{t.Columns[0].Name: float64(b.files) / took.Seconds()}, err
			}, nil
		}}
	}
	dian := func(parallel int) contestant {
		return contestant{fmt.Sprintf("Dian, %d at once", parallel), plain, func() (func() (figuresOf, error), error) {
			r, err := b.startRelay(true)
			if err != nil {
				return nil, err
			}
			return func() (figuresOf, error) {
				took, err := b.sendFiles(r, fresh("dian"), parallel, paths)
				return figuresOf{t.Columns[0].Name: float64(b.files) / took.Seconds()}, err
			}, nil
		}}
	}
	b.compare(t, []contestant{loop(plain, "", 1), loop("write and fsync, 64 at once", plain, 64), dian(4), dian(64)})
	return nil
}

// fileSystem says what the folder is on. It must not be memory.
func fileSystem(dir string) (string, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "", err
	}
	switch s.Type {
	case 0x01021994:
		return "", fmt.Errorf("%s is a tmpfs: name a folder on a disk with -disk", dir)
	case 0xef53:
		return "ext4", nil
	case 0x58465342:
		return "XFS", nil
	case 0x9123683e:
		return "Btrfs", nil
	case 0x794c7630:
		return "overlayfs", nil
	}
	return fmt.Sprintf("file system %#x", s.Type), nil
}

func writeFiles(dir, content string, n, atOnce int) (time.Duration, error) {
	data, err := os.ReadFile(content)
	if err != nil {
		return 0, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	start := time.Now()
	err = many(n, atOnce, func(i int) error {
		f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Sync(), f.Close())
	})
	return time.Since(start), err
}

// sendFiles sends the files to a new listener and counts what has come.
func (b *bench) sendFiles(r *relay, dir string, parallel int, paths []string) (time.Duration, error) {
	l, err := b.listen(r, "bob", dir)
	if err != nil {
		return 0, err
	}
	defer l.interrupt()
	came := make(chan error, 1)
	go func() {
		for range paths {
			if _, err := l.line(`"event":"file"`); err != nil {
				came <- err
				return
			}
		}
		came <- nil
	}()
	start := time.Now()
	args := append([]string{"send", "--json", "--parallel", strconv.Itoa(parallel), "bob"}, paths...)
	s, err := b.start(b.dian, append(args, r.as("alice")...)...)
	if err != nil {
		return 0, err
	}
	if err := s.wait(); err != nil {
		return 0, err
	}
	took := time.Since(start)
	return took, <-came
}
