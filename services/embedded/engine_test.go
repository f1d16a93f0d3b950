package embedded

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// smallRelease packs a stand-in for the 566 MB library with the real npm, which
// then fetches it in the same way as the real one.
func smallRelease(t *testing.T) release {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("NOT TESTED: fetching the engine: %v", err)
	}
	dir := t.TempDir()
	library := bytes.Repeat([]byte("not really a database "), 10_000)
	for name, content := range map[string][]byte{
		"package.json": []byte(`{"name": "small", "version": "1.0.0"}`),
		libraryName:    library,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tarball, err := npmPack(t.Context(), npm, release{spec: dir}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(tarball)
	if err != nil {
		t.Fatal(err)
	}
	hash := func(b []byte) string {
		sum := sha512.Sum512(b)
		return integrity(sum[:])
	}
	return release{
		spec: dir, integrity: hash(packed), size: int64(len(packed)),
		libraryHash: hash(library), librarySize: int64(len(library)), libraryEntry: "package/" + libraryName,
	}
}

func quiet(t *testing.T) EngineConfig {
	out := new(bytes.Buffer)
	t.Cleanup(func() { t.Logf("progress: %q", out) })
	return EngineConfig{CacheDir: t.TempDir(), Progress: out, Log: nopLog}
}

func TestEngineIsFetchedOnceAndAgainWhenDamaged(t *testing.T) {
	rel, cfg := smallRelease(t), quiet(t)
	leftover := filepath.Join(cfg.CacheDir, EngineVersion, "fetch-123")
	if err := os.MkdirAll(leftover, 0o755); err != nil {
		t.Fatal(err)
	}
	path, err := ensureCached(t.Context(), cfg, rel)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(leftover); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed fetch left: got %v, want it gone", err)
	}
	good, err := os.ReadFile(path)
	if err != nil || int64(len(good)) != rel.librarySize {
		t.Fatalf("got %d bytes and %v, want %d", len(good), err, rel.librarySize)
	}
	before, _ := os.Stat(path)
	if _, err := ensureCached(t.Context(), cfg, rel); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("a good cache was fetched anew")
	}
	rotten := bytes.Clone(good)
	rotten[len(rotten)/2] ^= 1
	for name, damage := range map[string]func() error{
		"cut short":         func() error { return os.Truncate(path, 100) },
		"one bit turned":    func() error { return os.WriteFile(path, rotten, 0o600) },
		"gone":              func() error { return os.Remove(path) },
		"no note, one bit":  func() error { return errors.Join(os.Remove(path+".json"), os.WriteFile(path, rotten, 0o600)) },
		"no note, but good": func() error { return os.Remove(path + ".json") },
		"an unreadable note": func() error {
			return errors.Join(os.WriteFile(path+".json", []byte("{"), 0o600), os.WriteFile(path, rotten, 0o600))
		},
	} {
		if err := damage(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := ensureCached(t.Context(), cfg, rel); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, good) {
			t.Errorf("%s: got %d bytes and %v, want the good ones", name, len(got), err)
		}
	}
}

func TestOneFetchesWhileOthersWait(t *testing.T) {
	rel, dir := smallRelease(t), t.TempDir()
	var wg sync.WaitGroup
	progress := make([]bytes.Buffer, 4)
	for i := range progress {
		wg.Go(func() {
			if _, err := ensureCached(t.Context(), EngineConfig{CacheDir: dir, Progress: &progress[i], Log: nopLog}, rel); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fetched := 0
	for i := range progress {
		fetched += strings.Count(progress[i].String(), "unpacking it (0 MB): done")
	}
	if fetched != 1 {
		t.Errorf("%d of %d fetched, want 1", fetched, len(progress))
	}
}

func TestEngineOfOtherContentIsRefused(t *testing.T) {
	rel, cfg := smallRelease(t), quiet(t)
	other := rel
	other.integrity = rel.libraryHash
	if _, err := ensureCached(t.Context(), cfg, other); err == nil || !strings.Contains(err.Error(), "it is not used") {
		t.Errorf("a tarball of another checksum: got %v, want a refusal", err)
	}
	other = rel
	other.libraryHash = rel.integrity
	if _, err := ensureCached(t.Context(), cfg, other); err == nil {
		t.Error("a library of another checksum was taken")
	}
	left, err := filepath.Glob(filepath.Join(cfg.CacheDir, EngineVersion, "[^l]*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v, want nothing", left, err)
	}
}

func TestWhatIsMissingForTheEngineIsSaid(t *testing.T) {
	rel := smallRelease(t)
	oneLine := func(name string, err error, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: got %v, want one line with %q", name, err, want)
			}
		}
	}
	nowhere := rel
	nowhere.spec = filepath.Join(t.TempDir(), "nowhere")
	_, err := ensureCached(t.Context(), quiet(t), nowhere)
	oneLine("npm fails", err, "npm pack", nowhere.spec, LibraryEnv)

	unknown := rel
	unknown.integrity = ""
	_, err = ensureCached(t.Context(), quiet(t), unknown)
	oneLine("no checksum", err, "no checksum is recorded", LibraryEnv)

	huge := rel
	huge.librarySize = 1 << 60
	_, err = ensureCached(t.Context(), quiet(t), huge)
	oneLine("no room", err, "MB are free")

	t.Setenv("PATH", t.TempDir())
	_, err = ensureCached(t.Context(), quiet(t), rel)
	oneLine("no npm", err, "npm", "Node.js", LibraryEnv, "--clickhouse-url")
}

func TestFetchEndsWithItsContext(t *testing.T) {
	rel, cfg := smallRelease(t), quiet(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ensureCached(ctx, cfg, rel); !errors.Is(err, context.Canceled) {
		t.Errorf("fetching: got %v, want %v", err, context.Canceled)
	}
	unlock, err := lockCache(t.Context(), cfg, filepath.Join(cfg.CacheDir, EngineVersion, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := ensureCached(ctx, cfg, rel); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for another: got %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestGivenLibraryIsUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lib.so")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(LibraryEnv, file)
	if got, err := EnsureEngine(t.Context(), EngineConfig{}); err != nil || got != file {
		t.Errorf("got %q and %v, want %q", got, err, file)
	}
	for _, bad := range []string{filepath.Dir(file), file + ".none"} {
		t.Setenv(LibraryEnv, bad)
		if _, err := EnsureEngine(t.Context(), EngineConfig{}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: got %v, want an error that names it", bad, err)
		}
	}
}

func TestMuslIsRefusedClearly(t *testing.T) {
	root := t.TempDir()
	touch := func(path string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkLibc("linux", root); err != nil {
		t.Errorf("an unknown system: got %v, want the benefit of the doubt", err)
	}
	touch("lib/ld-musl-x86_64.so.1")
	if err := checkLibc("linux", root); err == nil || !strings.Contains(err.Error(), "Alpine") {
		t.Errorf("musl alone: got %v, want it named", err)
	}
	if err := checkLibc("darwin", root); err != nil {
		t.Errorf("not Linux: %v", err)
	}
	touch("lib64/ld-linux-x86-64.so.2")
	if err := checkLibc("linux", root); err != nil {
		t.Errorf("musl beside glibc: %v", err)
	}
}
