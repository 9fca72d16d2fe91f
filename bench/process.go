package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// bench holds what the measurements share.
type bench struct {
	settings
	dir     string // a tmpfs where there is one
	self    string
	dian    string
	report  report
	failed  bool // a contestant did
	sockets int  // how many relays can be asked for profiles

	mu     sync.Mutex // guards what follows
	ends   []func()   // what the running measurement has to end
	began  []*process
	closed bool // nothing begins any more
}

// settings are the flags of all measurements.
type settings struct {
	rounds   int
	span     time.Duration // how long each loop of commands runs
	size     int64         // of the bulk file
	flow     int64         // how much flows while memory is watched
	sessions int           // the larger number of idle sessions
	files    int           // how many small ones
	disk     string        // a folder on a real one
	loads    []string      // of bounds
	who      *regexp.Regexp
	profiles string // a folder for CPU profiles of nodes, or ""
}

func newBench(s settings) (*bench, error) {
	if err := raiseFiles(); err != nil {
		return nil, err
	}
	base := os.TempDir()
	if _, err := os.Stat("/dev/shm"); err == nil {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "dian-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{settings: s, dir: dir, dian: filepath.Join(dir, "dian")}
	b.closeOnSignal()
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-o", b.dian, "./cmd/dian")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("build dian: %w\n%s", err, out)
	}
	if err := certificate(dir); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	os.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	return b, nil
}

// raiseFiles lets this process and its children have as many files as they may.
// Go raises its own limit by itself, but gives the old one to the programs it starts.
func raiseFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	const enough = 65536
	if limit.Max < enough && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: enough, Max: enough}) == nil {
		return nil // root may
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// atEnd has end run when the running measurement is over.
func (b *bench) atEnd(end func()) {
	b.mu.Lock()
	closed := b.closed
	b.ends = append(b.ends, end)
	b.mu.Unlock()
	if closed {
		end()
	}
}

// endAll ends what the measurement started, the newest first.
func (b *bench) endAll() {
	b.mu.Lock()
	ends := b.ends
	b.ends, b.began = nil, nil
	b.mu.Unlock()
	for _, end := range slices.Backward(ends) {
		end()
	}
}

func (b *bench) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.endAll()
	os.RemoveAll(b.dir)
}

// closeOnSignal ends the program when it is interrupted, and leaves nothing behind:
// neither processes nor gibibytes in a tmpfs.
func (b *bench) closeOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		b.close()
		os.Exit(130)
	}()
}

// file makes a file of n bytes that do not repeat.
func (b *bench) file(name string, n int64) (string, error) {
	path := filepath.Join(b.dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	block := make([]byte, 4<<20)
	rand.Read(block)
	for at := int64(0); at < n; at += int64(len(block)) {
		copy(block, strconv.FormatInt(at, 16)) // every block is another one
		if _, err := f.Write(block[:min(int64(len(block)), n-at)]); err != nil {
			return "", err
		}
	}
	return path, nil
}

// process is a part that runs beside this one.
type process struct {
	cmd    *exec.Cmd
	out    *bufio.Scanner
	stderr lockedBuffer
	ended  bool
}

// start runs a program; line reads its standard output.
func (b *bench) start(program string, args ...string) (*process, error) {
	return b.startReading(nil, program, args...)
}

// startReading runs a program whose standard input is in.
func (b *bench) startReading(in *os.File, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...)}
	if in != nil {
		p.cmd.Stdin = in
	}
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	p.out.Buffer(nil, 1<<20)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.began = append(b.began, p)
	b.mu.Unlock()
	b.atEnd(p.kill)
	return p, nil
}

// cpu is the processor time so far of this process and those of the running
// measurement that still run.
func (b *bench) cpu() time.Duration {
	var own syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &own)
	all := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.began {
		if !p.ended {
			all += cpuNow(p)
		}
	}
	return all
}

// line waits for a line that contains want, not for ever: see late.
func (p *process) line(want string) (string, error) {
	defer p.late().Stop()
	for p.out.Scan() {
		if strings.Contains(p.out.Text(), want) {
			return p.out.Text(), nil
		}
	}
	p.kill()
	return "", fmt.Errorf("%s ended without saying %q: %s", p.cmd.Args, want, p.stderr.String())
}

// peerPatience is how long a program may take for its part of one round.
const peerPatience = 10 * time.Minute

// late kills the process unless it is stopped before, a minute after those who wait by
// themselves have said for what.
func (p *process) late() *time.Timer {
	return time.AfterFunc(peerPatience+time.Minute, func() { p.cmd.Process.Kill() })
}

// says waits until standard error contains want, at most a minute.
func (p *process) says(want string) error {
	for range 6000 {
		if strings.Contains(p.stderr.String(), want) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.kill()
	return fmt.Errorf("%s did not say %q: %s", p.cmd.Args, want, p.stderr.String())
}

// A lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// wait waits for the end, not for ever: see late. A status other than 0 is an error.
func (p *process) wait() error {
	defer p.late().Stop()
	io.Copy(io.Discard, scannerReader{p.out})
	p.ended = true
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", p.cmd.Args, err, p.stderr.String())
	}
	return nil
}

// scannerReader drains a scanner.
type scannerReader struct{ s *bufio.Scanner }

func (r scannerReader) Read([]byte) (int, error) {
	if r.s.Scan() {
		return 0, nil
	}
	return 0, io.EOF
}

func (p *process) kill() {
	if !p.ended {
		p.ended = true
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
}

// interrupt asks the process to end and waits for it.
func (p *process) interrupt() {
	if !p.ended {
		p.cmd.Process.Signal(syscall.SIGTERM)
		p.ended = true
		p.cmd.Wait()
	}
}

// cpu is the processor time of an ended process.
func (p *process) cpu() time.Duration {
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// peak is the largest resident size so far of a running process, in bytes.
func (p *process) peak() (int64, error) { return p.status("VmHWM:") }

// status is a line of /proc's status file that is in kB, in bytes.
func (p *process) status(name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no %s for process %d", name, p.cmd.Process.Pid)
}

// endedPeak is the same of an ended process.
func (p *process) endedPeak() int64 {
	return p.cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// waitListening waits until addr accepts connections, at most 20 s.
func waitListening(addr string) error {
	for range 1000 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			return conn.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("nothing listens at %s", addr)
}

// certificate writes tls.crt and tls.key for 127.0.0.1 into dir.
func certificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}

// spread is the median and range of some figures.
func spread(values []float64) (median, low, high float64) {
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2, s[0], s[len(s)-1]
}
