package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// InUseError says that a living process holds a data directory. Match it with
// errors.As.
type InUseError struct {
	Dir string // the directory that was asked for
	PID int    // its holder; 0 if that could not be read
}

// Error names the directory, the holder and the ways out.
func (e InUseError) Error() string {
	by := "another process"
	if e.PID > 0 {
		by = "process " + strconv.Itoa(e.PID)
	}
	return fmt.Sprintf("data directory %s is in use by %s; stop it, or choose another directory with --data-dir", e.Dir, by)
}

// Lock is the hold of one process on a data directory.
type Lock struct{ f *os.File }

// LockDir takes dir, which it makes if need be, for this process, and does not
// wait: a directory that is taken is an InUseError. The kernel lets go of it when
// the process ends, by kill -9 too, so nothing stale is ever left behind.
func LockDir(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w; choose another with --data-dir", err)
	}
	// The file is never removed: a process that waits for a removed file and
	// one that made it anew would both believe they hold the directory.
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of data directory: %w; choose another with --data-dir", err)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, InUseError{Dir: dir, PID: pidIn(f)}
		}
		return nil, fmt.Errorf("lock data directory %s: %w; it must be on a file system with flock", dir, err)
	}
	// The number is for the reader of an error only; the lock does not need it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &Lock{f: f}, nil
}

// Release lets go of the directory. Call it last, when nothing of this process
// uses the directory any more.
func (l *Lock) Release() error { return l.f.Close() }

// flock is flock(2) that goes on after a signal.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// pidIn reads a process number from the first line of f, with or without the
// "PID: " that ClickHouse puts before its own; 0 if there is none.
func pidIn(f *os.File) int {
	head := make([]byte, 64)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "PID:")))
	return pid
}
