package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// document is docs/performance.md.
type document struct {
	began  time.Time
	opts   options
	engine string // version
	build  string
	lines  []line
}

type line struct {
	row
	result
}

func (d *document) add(r row, res result) { d.lines = append(d.lines, line{r, res}) }

// learn asks a mesh for its versions, once.
func (d *document) learn(ctx context.Context, m *mesh) error {
	if d.engine != "" {
		return nil
	}
	if err := m.db.QueryRow(ctx, "SELECT version()").Scan(&d.engine); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, d.opts.Binary, "version").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", d.opts.Binary, err)
	}
	d.build, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	return nil
}

// library returns the version of a module that the measured binary is built of.
func (d *document) library(path string) string {
	info, err := buildinfo.ReadFile(d.opts.Binary)
	if err != nil {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Version
		}
	}
	return "unknown"
}

// procLine returns the value of the first line of a /proc file that begins with key.
func procLine(file, key string) string {
	b, _ := os.ReadFile(file)
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func (d *document) write(path string) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Performance")
	p("")
	p("Written by `make bench`, which runs everything on one machine: load generator, gRPC, embedded broker, processors, sink and ClickHouse. Every figure here is")
	p("of this one run. It is a benchmark, not a test: run it on your own machine before you rely on it.")
	p("")
	p("| | |")
	p("|---|---|")
	p("| date | %s, %d minutes |", d.began.UTC().Format("2006-01-02 15:04 UTC"), int(time.Since(d.began).Round(time.Minute).Minutes()))
	p("| machine | %d cores, %s, %s, %s/%s |", runtime.NumCPU(), procLine("/proc/cpuinfo", "model name"), memoryOf(), runtime.GOOS, runtime.GOARCH)
	p("| versions | %s, %s, ClickHouse %s, confluent-kafka-go %s, kfake %s, grpc-go %s |", d.build, runtime.Version(), d.engine,
		d.library("github.com/confluentinc/confluent-kafka-go/v2"), d.library("github.com/twmb/franz-go/pkg/kfake"), d.library("google.golang.org/grpc"))
	p("| settings | the defaults of `earshot up`%s; acks=all, idempotent producers, effect before commit |", d.upFlags())
	p("| command | `make bench`%s: %d s a load; %s messages of %s users in the memory row |", d.environment(), d.opts.Seconds,
		thousands(int64(d.opts.Messages)), thousands(int64(d.opts.Users)))
	p("| traffic | %s senders, %s conversations, texts of about %d bytes, %s words used by Zipf's law |", thousands(senders), thousands(conversations),
		contentBytes, thousands(vocabulary))
	p("")
	p("| | what | measured | goal | |")
	p("|---|---|---|---|---|")
	for _, l := range d.lines {
		p("| %s | %s | **%s** | %s | %s |", l.name, l.title, l.Measured, l.goal, l.verdict())
	}
	p("")
	p("A rate is the messages over the time until every one of them was acknowledged, worked off by all processors, stored and readable. The load holds back while")
	p("consumers are more than %s messages behind, so that it could go on like this.", thousands(backlogLimit))
	for _, l := range d.lines {
		p("")
		p("## %s", l.name)
		p("")
		for _, detail := range l.Details {
			p("- %s", detail)
		}
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil { //nolint:gosec // a document
		return fmt.Errorf("write the table: %w", err)
	}
	fmt.Println("written:", path)
	return nil
}

func (d *document) upFlags() string {
	if len(d.opts.Up) == 0 {
		return ""
	}
	return ", with `" + strings.Join(d.opts.Up, " ") + "`"
}

// environment names what was asked for beside the defaults.
func (d *document) environment() string {
	var set []string
	for _, name := range []string{"BENCH_SECONDS", "BENCH_MESSAGES", "BENCH_USERS", "BENCH_RATE", "BENCH_UP"} {
		if v := os.Getenv(name); v != "" {
			set = append(set, name+"="+v)
		}
	}
	if len(set) == 0 {
		return ""
	}
	return " with " + strings.Join(set, " ")
}

func memoryOf() string {
	var kib int64
	if _, err := fmt.Sscan(procLine("/proc/meminfo", "MemTotal"), &kib); err != nil {
		return "unknown memory"
	}
	return fmt.Sprintf("%d GiB", (kib+1<<19)>>20)
}
