package rig

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a child of the test in a process group of its own. It ends with the test.
type Process struct {
	Name string
	tb   testing.TB
	cmd  *exec.Cmd
	out  *buffer
	done chan struct{}
	err  error
}

// Start runs a program. env is added to the test's environment.
func Start(tb testing.TB, name string, env []string, path string, args ...string) *Process {
	tb.Helper()
	p := &Process{Name: name, tb: tb, out: &buffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	tb.Cleanup(func() {
		p.Kill()
		if tb.Failed() {
			tb.Logf("---- %s (pid %d):\n%s", name, p.PID(), p.out.tail(6000))
		}
	})
	return p
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Running says whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends the process at once, as kill -9 does, and waits for it.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end and returns its exit code; one that does not end within a minute fails the test.
func (p *Process) Stop() int {
	p.tb.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait(time.Minute)
}

// Wait returns the exit code once the process has ended.
func (p *Process) Wait(limit time.Duration) int {
	p.tb.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		p.Signal(syscall.SIGQUIT) // Go prints where it hangs
		<-p.done
		p.tb.Fatalf("%s did not end within %v:\n%s", p.Name, limit, p.out.tail(20000))
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// Output returns what the process printed so far, to both streams.
func (p *Process) Output() string { return p.out.tail(1 << 20) }

// buffer keeps the last MiB or so of output.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len() > 2<<20 {
		b.b.Next(b.b.Len() - 1<<20)
	}
	return b.b.Write(p)
}

func (b *buffer) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.b.Bytes()
	return string(s[max(0, len(s)-n):])
}
