// Command earshot is the whole mesh in one binary: a sub-command for each service, `up` for all of them with an embedded broker and engine, and the
// tools of the people who run it. This package does the wiring and alone ends the process.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/earshot/earshot/services/embedded"
)

func main() {
	embedded.RunChildIfAsked() // never returns in the engine's child process
	os.Exit(run(os.Args[1:]))
}

// run returns the exit code: 0 done, 1 failed, 2 wrong usage.
func run(args []string) int {
	ctx, stop := signalled()
	defer stop()
	cmd := newRoot()
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	var wrong usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintf(os.Stderr, "earshot: %s\n", oneLine(err))
		return 2
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return 0 // asked to stop, and did
	}
	fmt.Fprintf(os.Stderr, "earshot: %s\n", oneLine(err))
	return 1
}

// signalled returns a context that the first SIGINT or SIGTERM ends, so that work is drained; the second one ends the process at once.
func signalled() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(1)
	}()
	return ctx, cancel // signals stay ours to the end: signal.Stop can wait for ever where C threads take signals, too
}

// usageError is a command line that can not be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func oneLine(err error) string { return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ") }
