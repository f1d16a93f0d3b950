package embedded

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fetch brings rel's library into dir: npm packs the tarball beside it, it is
// checked, and the library is renamed into place whole.
func fetch(ctx context.Context, cfg EngineConfig, rel release, dir string) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return fmt.Errorf("the ClickHouse engine is fetched with npm, which was not found in PATH; install Node.js, "+
			"or set %s to a %s %s that is already there, or give a ClickHouse server with --clickhouse-url", LibraryEnv, libraryName, EngineVersion)
	}
	if err := checkSpace(dir, rel.size+rel.librarySize); err != nil {
		return err
	}
	// Whoever was killed in here left its half behind; we hold the cache's lock.
	if old, err := filepath.Glob(filepath.Join(dir, "fetch-*")); err == nil {
		for _, dir := range old {
			_ = os.RemoveAll(dir)
		}
	}
	tmp, err := os.MkdirTemp(dir, "fetch-") // on the same file system, for the rename
	if err != nil {
		return fmt.Errorf("make engine fetch directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()

	fetching := startProgress(cfg.Progress, "fetching the ClickHouse engine", rel.size, arrival(ctx, npm, tmp))
	tarball, err := npmPack(ctx, npm, rel, tmp)
	fetching.stop(err == nil)
	if err != nil {
		return err
	}
	library := filepath.Join(tmp, libraryName)
	unpacking := startProgress(cfg.Progress, "unpacking it", rel.librarySize, func() int64 { return fileSize(library) })
	err = unpack(ctx, tarball, library, rel)
	unpacking.stop(err == nil)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, libraryName)
	if err := os.Rename(library, path); err != nil {
		return fmt.Errorf("put engine into cache: %w", err)
	}
	return markVerified(path, rel)
}

// npmPack has npm put rel's tarball into dir and returns its path.
func npmPack(ctx context.Context, npm string, rel release, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, npm, "pack", rel.spec, "--pack-destination", dir, "--ignore-scripts", "--loglevel=error")
	cmd.Dir = dir
	var said bytes.Buffer
	cmd.Stderr = &said
	// npm starts processes of its own: all of them end when ctx does, and none
	// hears the terminal's Ctrl-C before us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("npm pack %s: %w: %s; check npm's settings and network, or set %s to a %s that is already there",
			rel.spec, errors.Join(ctx.Err(), err), firstLine(said.String()), LibraryEnv, libraryName)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("npm pack %s: got %d tarballs, want 1", rel.spec, len(found))
	}
	return found[0], nil
}

// arrival returns a function that tells how many bytes of the tarball are here.
// npm does not say; but it writes into its cache's directory tmp first.
func arrival(ctx context.Context, npm, dir string) func() int64 {
	began := time.Now()
	places := []string{filepath.Join(dir, "*.tgz")}
	if cache, err := exec.CommandContext(ctx, npm, "config", "get", "cache").Output(); err == nil {
		places = append(places, filepath.Join(strings.TrimSpace(string(cache)), "_cacache", "tmp", "*"))
	}
	return func() int64 {
		var most int64
		for _, place := range places {
			files, _ := filepath.Glob(place)
			for _, file := range files {
				if info, err := os.Stat(file); err == nil && !info.ModTime().Before(began) {
					most = max(most, info.Size())
				}
			}
		}
		return most
	}
}

// unpack checks the tarball's sha512 and then writes the library in it to path.
func unpack(ctx context.Context, tarball, path string, rel release) error {
	f, err := os.Open(tarball)
	if err != nil {
		return fmt.Errorf("open engine tarball: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("read engine tarball: %w", err)
	}
	if got := integrity(h.Sum(nil)); got != rel.integrity {
		return fmt.Errorf("%s: got the checksum %s, want %s; it is not used", rel.spec, got, rel.integrity)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read engine tarball: %w", err)
	}
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("read engine tarball: %w", err)
	}
	for files := tar.NewReader(unzipped); ; {
		entry, err := files.Next()
		if err != nil {
			return fmt.Errorf("find %s in engine tarball: %w", rel.libraryEntry, err)
		}
		if entry.Name == rel.libraryEntry {
			return writeLibrary(ctx, path, files, rel)
		}
	}
}

// writeLibrary writes the library to path, down to the disk: a power cut must
// not leave a cache that looks whole.
func writeLibrary(ctx context.Context, path string, r io.Reader, rel release) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return fmt.Errorf("write engine: %w", err)
	}
	h := sha512.New()
	n, err := io.Copy(io.MultiWriter(out, h), readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	}))
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("write engine: %w", err)
	}
	if got := integrity(h.Sum(nil)); n != rel.librarySize || got != rel.libraryHash {
		return fmt.Errorf("engine library: got %d bytes with %s, want %d with %s", n, got, rel.librarySize, rel.libraryHash)
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// checkSpace refuses to begin what can not fit on dir's file system.
func checkSpace(dir string, need int64) error {
	var fs unix.Statfs_t
	err := unix.Statfs(dir, &fs)
	if free := fs.Bavail * uint64(fs.Bsize); err == nil && free < uint64(need) {
		return fmt.Errorf("the ClickHouse engine needs %d MB in %s, where %d MB are free; make room, or set XDG_CACHE_HOME to another place",
			need/1e6, dir, free/1e6)
	}
	return nil // if the system does not say, writing will
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if line == "" {
		return "it said nothing"
	}
	return line
}
