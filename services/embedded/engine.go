package embedded

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// EngineVersion is the one release of libchdb that is used. Its number is
	// the npm package's; the ClickHouse in it calls itself 26.7.2. Others are
	// known not to listen (26.5.3).
	EngineVersion = "26.7.3-stable.1"
	// LibraryEnv names a libchdb that is already there; nothing is fetched then.
	LibraryEnv = "EARSHOT_LIBCHDB"

	libraryName = "libchdb.so" // on macOS, too
)

// release is what npm has for one platform.
type release struct {
	spec         string // what npm is asked for: package@version
	integrity    string // sha512 of the tarball, as npm writes it; "" if unknown
	size         int64  // bytes of the tarball
	libraryHash  string // sha512 of the library in it, likewise
	librarySize  int64  // bytes
	libraryEntry string // its path in the tarball
}

// releases is by GOOS/GOARCH. What has no integrity was not within reach of the
// one who recorded these, and is not fetched.
var releases = map[string]release{
	"linux/amd64": {
		spec:         "@chdb/lib-linux-x64-gnu@" + EngineVersion,
		integrity:    "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
		size:         177_817_999,
		libraryHash:  "sha512-Cl5q9c9XA0EW00o5SAmJoWDdEF83LYWqdI+NKwpevVKpDZE3N9euhvb1l9N/4G06TSISXBPFqpYdkaqT0DR1Hg==",
		librarySize:  566_330_096,
		libraryEntry: "package/libchdb.so",
	},
	"linux/arm64":  {spec: "@chdb/lib-linux-arm64-gnu@" + EngineVersion},
	"darwin/amd64": {spec: "@chdb/lib-darwin-x64@" + EngineVersion},
	"darwin/arm64": {spec: "@chdb/lib-darwin-arm64@" + EngineVersion},
}

// EngineConfig says where the engine is kept and who hears of its arrival. The
// zero value is good.
type EngineConfig struct {
	CacheDir string       // "" is earshot/engine in the user's cache directory
	Progress io.Writer    // a bar if it is a terminal, lines if not; nil shows nothing
	Log      *slog.Logger // nil logs nothing
}

// EnsureEngine returns the path of libchdb: the one that LibraryEnv names, the
// one in the cache, or one it fetches into the cache with the user's own npm
// client (178 MB), whose settings say from where. What is fetched must have the
// recorded sha512. A damaged cache is fetched anew. Several processes may call it
// at once; one fetches and the others wait.
func EnsureEngine(ctx context.Context, cfg EngineConfig) (string, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	if err := checkLibc(runtime.GOOS, "/"); err != nil {
		return "", err
	}
	if path := os.Getenv(LibraryEnv); path != "" {
		return givenLibrary(path)
	}
	rel, ok := releases[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("there is no ClickHouse engine for %s/%s; give a ClickHouse server with --clickhouse-url", runtime.GOOS, runtime.GOARCH)
	}
	if cfg.CacheDir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the cache directory for the ClickHouse engine: %w; set XDG_CACHE_HOME or HOME", err)
		}
		cfg.CacheDir = filepath.Join(user, "earshot", "engine")
	}
	return ensureCached(ctx, cfg, rel)
}

// ensureCached returns rel's library in the cache, fetching it if it is not
// there or not whole.
func ensureCached(ctx context.Context, cfg EngineConfig, rel release) (string, error) {
	dir := filepath.Join(cfg.CacheDir, EngineVersion)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make engine cache: %w; set XDG_CACHE_HOME to a directory that can be written", err)
	}
	unlock, err := lockCache(ctx, cfg, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()

	path := filepath.Join(dir, libraryName)
	switch err := checkLibrary(path, rel); {
	case err == nil:
		return path, nil
	case !errors.Is(err, os.ErrNotExist):
		cfg.Log.WarnContext(ctx, "the cached ClickHouse engine is damaged, fetching it anew", "err", err)
	}
	if rel.integrity == "" {
		return "", fmt.Errorf("no checksum is recorded for %s, so it is not fetched; get it with `npm pack %s`, unpack it and set %s to its %s",
			rel.spec, rel.spec, LibraryEnv, libraryName)
	}
	if err := fetch(ctx, cfg, rel, dir); err != nil {
		return "", err
	}
	return path, nil
}

// lockCache makes this caller the only one that works on the cache, in this
// process and any other. It waits for its turn.
func lockCache(ctx context.Context, cfg EngineConfig, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open engine cache lock: %w", err)
	}
	for told := false; ; {
		err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock engine cache %s: %w", path, err)
		}
		if !told {
			_, _ = fmt.Fprintln(cfg.Progress, "waiting for another earshot that is fetching the ClickHouse engine")
			told = true
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for engine cache %s: %w", path, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// verified is written beside a library once its whole content was checked, so
// that later starts need to look at its size and time only.
type verified struct {
	Size    int64     `json:"size"`     // bytes
	ModTime time.Time `json:"mod_time"` // of the library
	Hash    string    `json:"hash"`     // of the library
}

// checkLibrary returns nil if the library at path is rel's. It reads all of it
// only if it changed since it was last read.
func checkLibrary(path string, rel release) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() != rel.librarySize {
		return fmt.Errorf("%s: got %d bytes, want %d", path, info.Size(), rel.librarySize)
	}
	var known verified
	if b, err := os.ReadFile(path + ".json"); err == nil && json.Unmarshal(b, &known) == nil &&
		known.Size == info.Size() && known.ModTime.Equal(info.ModTime()) && known.Hash == rel.libraryHash {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := integrity(h.Sum(nil)); got != rel.libraryHash {
		return fmt.Errorf("%s: got %s, want %s", path, got, rel.libraryHash)
	}
	return markVerified(path, rel)
}

// markVerified records that the library at path is rel's.
func markVerified(path string, rel release) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	b, err := json.Marshal(verified{Size: info.Size(), ModTime: info.ModTime(), Hash: rel.libraryHash})
	if err != nil {
		return err
	}
	return os.WriteFile(path+".json", b, 0o644)
}

// integrity writes a sha512 as npm does.
func integrity(sum []byte) string { return "sha512-" + base64.StdEncoding.EncodeToString(sum) }

// givenLibrary checks the path of a library that the user names.
func givenLibrary(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("%s=%s: %w", LibraryEnv, path, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", fmt.Errorf("%s=%s: %w; point it at %s %s, or unset it", LibraryEnv, path, err, libraryName, EngineVersion)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s=%s: got no regular file, want the path of %s", LibraryEnv, path, libraryName)
	}
	return abs, nil
}

// checkLibc refuses a Linux whose C library is not glibc, below root.
func checkLibc(goos, root string) error {
	if goos != "linux" {
		return nil
	}
	musl, _ := filepath.Glob(filepath.Join(root, "lib", "ld-musl-*.so.1"))
	var glibc []string
	for _, dir := range []string{"lib", "lib64", "usr/lib", "usr/lib64", "lib/*-linux-gnu"} {
		found, _ := filepath.Glob(filepath.Join(root, dir, "ld-linux-*.so.*"))
		glibc = slices.Concat(glibc, found)
	}
	if len(musl) > 0 && len(glibc) == 0 {
		return errors.New("the ClickHouse engine needs glibc, and this system has musl (Alpine?); run earshot on a glibc system such as Debian, or give a ClickHouse server with --clickhouse-url")
	}
	return nil
}
