package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func startBroker(t *testing.T, dir string, port int) *Broker {
	t.Helper()
	b, err := StartBroker(BrokerConfig{DataDir: dir, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func client(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func makeTopic(t *testing.T, cl *kgo.Client, topic string, partitions int32, configs map[string]string) {
	t.Helper()
	values := map[string]*string{}
	for k, v := range configs {
		values[k] = &v
	}
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, -1, values, topic); err != nil {
		t.Fatal(err)
	}
}

// readAll returns the values of topic, of which there must be want at least.
func readAll(t *testing.T, addr, topic string, want int) map[string]int {
	t.Helper()
	cl := client(t, addr, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got := map[string]int{}
	for len(got) < want {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("got %d distinct records of %d: %v", len(got), want, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { got[string(r.Value)]++ })
	}
	return got
}

// Acknowledged records, topics and group offsets must survive kill -9, and the
// log must be served from another port then.
func TestKilledBrokerLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	acked := map[string]bool{}
	const rounds = 3
	for round := range rounds {
		addr, kill := startRole(t, "broker", "DIR="+dir)
		cl := client(t, addr, kgo.DefaultProduceTopic("messages"), kgo.ProducerLinger(0))
		if round == 0 {
			makeTopic(t, cl, "messages", 3, nil)
		}
		if err := kadm.NewClient(cl).CommitAllOffsets(t.Context(), "sink", kadm.OffsetsFromRecords(
			kgo.Record{Topic: "messages", Partition: 1, Offset: int64(round)})); err != nil {
			t.Fatal(err)
		}
		for n := range 20_000 {
			value := fmt.Sprintf("%d/%d", round, n)
			cl.Produce(context.Background(), &kgo.Record{Key: []byte(value), Value: []byte(value)}, func(r *kgo.Record, err error) {
				if err == nil {
					mu.Lock()
					acked[string(r.Value)] = true
					mu.Unlock()
				}
			})
		}
		eventually(t, 10*time.Second, "some acknowledgements, in the middle of the load", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acked) > 5_000*(round+1)
		})
		kill()
		cl.Close()
	}
	b := startBroker(t, dir, 0)
	got := readAll(t, b.Addr(), "messages", len(acked))
	lost := 0
	for value := range acked {
		if got[value] == 0 {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged records are lost", lost, len(acked))
	}
	offsets, err := kadm.NewClient(client(t, b.Addr())).FetchOffsets(t.Context(), "sink")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := offsets.Lookup("messages", 1); o.At != rounds {
		t.Errorf("committed offset after the kills: got %d, want %d", o.At, rounds)
	}
	t.Logf("%d acknowledged in %d rounds, %d lost", len(acked), rounds, lost)
}

func TestBrokerKeepsItsLogAndPortAcrossARestart(t *testing.T) {
	dir := t.TempDir()
	b := startBroker(t, dir, 0)
	cl := client(t, b.Addr(), kgo.DefaultProduceTopic("views"))
	makeTopic(t, cl, "views", 1, map[string]string{"retention.ms": "86400000"})
	if err := cl.ProduceSync(t.Context(), kgo.StringRecord("seen")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	cl.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	p, _ := strconv.Atoi(port)
	again := startBroker(t, dir, p)
	if again.Addr() != b.Addr() {
		t.Errorf("address after restart: got %s, want %s", again.Addr(), b.Addr())
	}
	readAll(t, again.Addr(), "views", 1)
}

func TestTopicsAreNotMadeByUse(t *testing.T) {
	b := startBroker(t, t.TempDir(), 0)
	cl := client(t, b.Addr(), kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(0))
	err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "tyop", Value: []byte("x")}).FirstErr()
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("producing to a topic nobody made: got %v, want %v", err, kerr.UnknownTopicOrPartition)
	}
}

// kfake forgets to apply retention after a restart; we must not.
func TestRetentionIsAppliedAfterARestart(t *testing.T) {
	dir := t.TempDir()
	b := startBroker(t, dir, 0)
	cl := client(t, b.Addr(), kgo.DefaultProduceTopic("views"))
	makeTopic(t, cl, "views", 1, map[string]string{"retention.ms": "60000"})
	for _, age := range []time.Duration{time.Hour, time.Hour, 0} {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: []byte("x"), Timestamp: time.Now().Add(-age)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	cl.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(client(t, startBroker(t, dir, 0).Addr()))
	eventually(t, 5*time.Second, "the first two records expire", func() bool {
		start, err := admin.ListStartOffsets(t.Context(), "views")
		if err != nil {
			t.Fatal(err)
		}
		o, _ := start.Lookup("views", 0)
		return o.Offset == 2
	})
}

func TestTakenKafkaPortIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	port := ln.Addr().(*net.TCPAddr).Port
	_, err = StartBroker(BrokerConfig{DataDir: t.TempDir(), Port: port})
	want := fmt.Sprintf("kafka port %d is taken", port)
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--kafka-port or KAFKA_PORT") {
		t.Errorf("got %v, want %q and the settings", err, want)
	}
}

func TestBrokerStaysOnLoopback(t *testing.T) {
	for _, host := range []string{"0.0.0.0", "::", "192.0.2.1", "example.org"} {
		if _, err := StartBroker(BrokerConfig{DataDir: t.TempDir(), Host: host}); err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("host %s: got %v, want a refusal", host, err)
		}
	}
}

// Whatever reaches the port, the broker must go on, and hold no memory for it.
func TestStrangersDoNotHarmTheBroker(t *testing.T) {
	b := startBroker(t, t.TempDir(), 0)
	frame := func(size uint32, body ...byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, size), body...)
	}
	cases := map[string][]byte{
		"a browser":          []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"a TLS hello":        {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0},
		"the largest size":   frame(0xffffffff, make([]byte, 64)...),
		"no size":            frame(0, make([]byte, 64)...),
		"an unknown key":     frame(20, append([]byte{0x7f, 0xff}, make([]byte, 18)...)...),
		"a negative version": frame(20, append([]byte{0, 3, 0xff, 0xff}, make([]byte, 16)...)...),
		"a future version":   frame(20, append([]byte{0, 3, 0, 99}, make([]byte, 16)...)...),
	}
	for name, sent := range cases {
		conn, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write(sent); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := io.Copy(io.Discard, conn); n > 0 || isTimeout(err) {
			t.Errorf("%s: got %d bytes and %v, want a closed connection", name, n, err)
		}
		_ = conn.Close()
	}
	if err := client(t, b.Addr()).Ping(t.Context()); err != nil {
		t.Errorf("after the strangers: %v", err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// A request that looks right and is garbage inside must not end the process.
func TestGarbageRequestsDoNotHarmTheBroker(t *testing.T) {
	b := startBroker(t, t.TempDir(), 0)
	makeTopic(t, client(t, b.Addr()), "messages", 1, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		conn, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, 8+rng.IntN(200))
		for i := range body {
			body[i] = byte(rng.IntN(4)) // small numbers parse further than large ones
		}
		binary.BigEndian.PutUint16(body, uint16(rng.IntN(80)))
		binary.BigEndian.PutUint16(body[2:], uint16(rng.IntN(10)))
		_, _ = conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	if err := client(t, b.Addr()).Ping(t.Context()); err != nil {
		t.Errorf("after the garbage: %v", err)
	}
}

func TestGuardPassesRequestsUnchanged(t *testing.T) {
	request := append([]byte{0, 0, 0, 12, 0, 18, 0, 0}, "abcdefgh"...)
	var sent []byte
	for range 5_000 { // more than the guard's buffer holds
		sent = append(sent, request...)
	}
	ours, theirs := net.Pipe()
	go func() {
		_, _ = ours.Write(sent)
		_ = ours.Close()
	}()
	g := (&guardedListener{}).guard(theirs)
	got, err := io.ReadAll(g)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes and %v, want the %d sent", len(got), err, len(sent))
	}
	_ = g.Close()
}
