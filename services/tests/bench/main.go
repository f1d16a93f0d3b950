package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options come from the environment, so that `make bench` passes them on as they are.
type options struct {
	Rows     []string      // ROW: names of rows, separated by commas; empty or "all" is every one
	Seconds  int           // BENCH_SECONDS: how long each load lasts
	Messages int           // BENCH_MESSAGES: messages of the memory row
	Rate     int           // BENCH_RATE: messages a second beside which latencies are taken
	Users    int           // BENCH_USERS: senders of the memory row
	Binary   string        // EARSHOT_BIN
	Document string        // BENCH_OUT: where the table goes when every row ran; "-" for nowhere
	Dir      string        // BENCH_DIR: where data directories are made; empty is the system's
	Up       []string      // BENCH_UP: more flags for `earshot up`
	Profile  string        // BENCH_PROFILE: a directory for CPU and heap profiles taken under load; empty for none
	Limit    time.Duration // of the whole run
}

func readOptions() (options, error) {
	o := options{
		Seconds: 30, Messages: 10_000_000, Users: 1_000_000, Rate: 10_000, Binary: "bin/earshot", Document: "docs/performance.md",
		Dir: os.Getenv("BENCH_DIR"), Up: strings.Fields(os.Getenv("BENCH_UP")), Profile: os.Getenv("BENCH_PROFILE"), Limit: time.Hour,
	}
	var errs []error
	number := func(name string, at *int, least int) {
		text := os.Getenv(name)
		if text == "" {
			return
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < least {
			errs = append(errs, fmt.Errorf("%s: got %q, want a number of at least %d", name, text, least))
			return
		}
		*at = n
	}
	number("BENCH_SECONDS", &o.Seconds, 5)
	number("BENCH_MESSAGES", &o.Messages, 100_000)
	number("BENCH_USERS", &o.Users, 1000)
	number("BENCH_RATE", &o.Rate, 100)
	if v := os.Getenv("EARSHOT_BIN"); v != "" {
		o.Binary = v
	}
	if v := os.Getenv("BENCH_OUT"); v != "" {
		o.Document = v
	}
	if v := os.Getenv("ROW"); v != "" && v != "all" {
		for _, name := range strings.Split(v, ",") {
			if !slices.ContainsFunc(rows, func(r row) bool { return r.name == name }) {
				errs = append(errs, fmt.Errorf("ROW: got %q, want all or some of %s", name, strings.Join(rowNames(), ", ")))
			}
			o.Rows = append(o.Rows, name)
		}
	}
	return o, errors.Join(errs...)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // a program of its own, which is not shipped
	}
}

func run(ctx context.Context) error {
	o, err := readOptions()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	doc := document{began: time.Now(), opts: o}
	var errs []error
	for _, r := range rows {
		if len(o.Rows) > 0 && !slices.Contains(o.Rows, r.name) {
			continue
		}
		res, err := r.measure(ctx, o, &doc)
		if ctx.Err() != nil {
			return fmt.Errorf("row %s: %w", r.name, context.Cause(ctx))
		}
		if err != nil {
			res.Measured, res.Broken = "did not finish: "+strings.ReplaceAll(err.Error(), "\n", "; "), true
			errs = append(errs, fmt.Errorf("row %s: %w", r.name, err))
		}
		fmt.Printf("%-12s %s | %s | goal %s: %s\n", r.name, r.title, res.Measured, r.goal, res.verdict())
		for _, d := range res.Details {
			fmt.Printf("%-12s   %s\n", "", d)
		}
		doc.add(r, res)
	}
	if len(o.Rows) == 0 && o.Document != "-" {
		errs = append(errs, doc.write(o.Document))
	}
	return errors.Join(errs...)
}

// measure runs a row on a mesh of its own.
func (r row) measure(ctx context.Context, o options, doc *document) (res result, err error) {
	m, err := startMesh(ctx, o)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, m.stop()) }()
	if err := doc.learn(ctx, m); err != nil {
		return res, err
	}
	return r.run(ctx, m, o)
}
