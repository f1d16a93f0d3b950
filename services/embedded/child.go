package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"
)

const (
	// entryPoint is clickhouse-local's main in libchdb; it skips argv[0]. The
	// documented chdb_connect can not listen.
	entryPoint = "query_stable_v2"
	// childMarker in the environment makes this binary the ClickHouse child.
	childMarker = "EARSHOT_CLICKHOUSE_CHILD"
	// childLifeline is the descriptor on which the child waits for its parent's end.
	childLifeline = 3
	// orphanGrace is how long a child without a parent may take to end in order.
	// It is below lockWait, so that the next `up` finds the directory free.
	orphanGrace = 5 * time.Second
)

// RunChildIfAsked turns this process into the ClickHouse child when it was
// started as one, and then never returns. It must be the first call in main, and
// in TestMain of every test that starts a ClickHouse: flags, signals and
// goroutines of the parent have no business in the child.
func RunChildIfAsked() {
	if os.Getenv(childMarker) != "1" {
		return
	}
	if err := runChild(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "clickhouse child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runChild loads the library named by args[1] and calls its server entry point
// with the rest. It returns nil once the engine has ended in order, which it
// does at SIGTERM and at the end of the parent.
func runChild(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("got %d arguments, want a library and the engine's arguments; start it through earshot up", len(args)-1)
	}
	lib, err := purego.Dlopen(args[1], purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return fmt.Errorf("load %s: %w", args[1], err)
	}
	if _, err := purego.Dlsym(lib, entryPoint); err != nil {
		return fmt.Errorf("%s has no %s, so it is not libchdb %s: %w", args[1], entryPoint, EngineVersion, err)
	}
	var serve func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	purego.RegisterLibFunc(&serve, lib, entryPoint)

	// The engine is clickhouse-local: it serves for as long as its query runs.
	// The query reads a pipe that stays empty, and ends when we close it; the
	// engine then lets go of its files in order.
	keep, release, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the keep-alive pipe: %w", err)
	}
	var asked atomic.Bool
	go func() {
		waitForEnd()
		asked.Store(true)
		_ = release.Close()
		time.Sleep(orphanGrace)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}()

	query := fmt.Sprintf("SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; "+
		"SELECT * FROM file('/dev/fd/%d', 'LineAsString', 'line String') FORMAT Null", keep.Fd())
	argv := cStrings(append(slices.Clone(args[2:]), "--query", query))
	runtime.LockOSThread()
	serve(int32(len(argv)-1), unsafe.Pointer(&argv[0]))
	runtime.KeepAlive(argv)
	runtime.KeepAlive(keep)
	if !asked.Load() {
		return errors.New("the engine gave up; the lines above and clickhouse.log in its directory say why")
	}
	return nil
}

// waitForEnd returns at SIGTERM, or when the parent's end of the lifeline
// closes, which the kernel sees to even when the parent is killed.
func waitForEnd() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	orphan := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(childLifeline, "lifeline"))
		close(orphan)
	}()
	select {
	case <-term:
	case <-orphan:
	}
}

// cStrings lays out args as a NULL-terminated array of C strings, which the
// collector keeps for as long as the array itself is reachable.
func cStrings(args []string) []*byte {
	argv := make([]*byte, len(args)+1)
	for i, a := range args {
		argv[i] = &append([]byte(a), 0)[0]
	}
	return argv
}
