package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// startSCP starts an OpenSSH server with a configuration, a host key and a user's key
// of its own.
func (b *bench) startSCP() (transfer, error) {
	paths := map[string]string{}
	for _, name := range []string{"sshd", "scp", "ssh-keygen"} {
		var err error
		if paths[name], err = findProgram(name); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(b.dir, "ssh")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command(paths["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // Debian's sshd locks itself in there
			return nil, err
		}
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	config := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(config, []byte(strings.Join([]string{
		"ListenAddress " + addr, "HostKey " + filepath.Join(dir, "host"), "AuthorizedKeysFile " + filepath.Join(dir, "user.pub"),
		"PidFile none", "StrictModes no", "UsePAM no", "PasswordAuthentication no", "PermitRootLogin prohibit-password",
		"Subsystem sftp internal-sftp", "LogLevel ERROR", "",
	}, "\n")), 0o600); err != nil {
		return nil, err
	}
	server, err := b.start(paths["sshd"], "-D", "-e", "-f", config)
	if err != nil {
		return nil, err
	}
	if err := waitListening(addr); err != nil {
		return nil, fmt.Errorf("%w: %s", err, server.stderr.String())
	}
	out := filepath.Join(b.dir, "scp.out")
	return func(file string) (took, cpu time.Duration, err error) {
		before := familyCPU(server)
		start := time.Now()
		client, err := b.start(paths["scp"], "-q", "-P", port, "-F", "none", "-i", filepath.Join(dir, "user"), "-c", "aes128-gcm@openssh.com",
			"-o", "Compression=no", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", file, "127.0.0.1:"+out)
		if err != nil {
			return 0, 0, err
		}
		if err := client.wait(); err != nil {
			return 0, 0, err
		}
		took = time.Since(start)
		if err := childless(server); err != nil {
			return 0, 0, err
		}
		return took, client.cpu() + familyCPU(server) - before, removeLike(out, file)
	}, nil
}

// childless waits until the process has waited for its children, whose processor
// time is its own then.
func childless(p *process) error {
	path := fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid)
	for range 1000 {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(text) == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s still has a child", p.cmd.Args)
}
