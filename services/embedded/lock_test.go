package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecondHolderOfADirectoryIsTold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	first, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = LockDir(dir)
	var inUse InUseError
	if !errors.As(err, &inUse) || inUse.Dir != dir || inUse.PID != os.Getpid() {
		t.Fatalf("second LockDir: got %v, want InUseError of %s by %d", err, dir, os.Getpid())
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := LockDir(dir)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	if err := again.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestLockVanishesWithAKilledHolder(t *testing.T) {
	dir := t.TempDir()
	line, kill := startRole(t, "lock", "DIR="+dir)
	if line != "<nil>" {
		t.Fatalf("holder: %s", line)
	}
	if _, err := LockDir(dir); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Fatalf("while held by another process: got %v, want its number", err)
	}
	kill()
	lock, err := LockDir(dir)
	if err != nil {
		t.Fatalf("after kill -9 of the holder: %v", err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryThatCanNotBeMadeIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LockDir(filepath.Join(file, "data")); err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Fatalf("got %v, want an error that names --data-dir", err)
	}
}
