// Package clickhouse connects services to ClickHouse by one rule for its address, and wraps queries in spans.
//
// It may import services/internal packages only.
package clickhouse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Database holds all our tables and views. Queries name it, so that they work whatever database a connection starts in.
const Database = "message_db"

// Config says where ClickHouse is. Start from DefaultConfig.
type Config struct {
	// URL is host:port, or http://host:port or https://host:port. A bare host:port means the native protocol, unless the port is 8123 or 8443,
	// where it means HTTP and HTTPS; port 9440 means the native protocol over TLS.
	URL      string
	User     string // default: "default"
	Password string
	Database string // for queries that name none; default: the user's own. It must exist. Our own queries name message_db.

	DialTimeout time.Duration // at least 1ms
	ReadTimeout time.Duration // longest silence while an answer is awaited; at least 1ms
	MaxConns    int           // open at once; at least 1
}

// DefaultConfig returns the settings for a ClickHouse on this machine.
func DefaultConfig() Config {
	return Config{
		URL: "127.0.0.1:9000", User: "default",
		DialTimeout: 5 * time.Second, ReadTimeout: time.Minute, MaxConns: 8,
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	if _, err := c.Address(); err != nil {
		errs = append(errs, err)
	}
	if c.User == "" {
		errs = append(errs, errors.New(`clickhouse.user: got "", want a name such as "default"`))
	}
	if c.DialTimeout < time.Millisecond {
		errs = append(errs, fmt.Errorf("clickhouse.dial_timeout: got %v, want at least 1ms", c.DialTimeout))
	}
	if c.ReadTimeout < time.Millisecond {
		errs = append(errs, fmt.Errorf("clickhouse.read_timeout: got %v, want at least 1ms", c.ReadTimeout))
	}
	if c.MaxConns < 1 {
		errs = append(errs, fmt.Errorf("clickhouse.max_conns: got %d, want at least 1", c.MaxConns))
	}
	return errors.Join(errs...)
}

// Address is where and how to reach ClickHouse.
type Address struct {
	Host string // host:port
	HTTP bool   // the HTTP protocol; native otherwise
	TLS  bool
}

// Address reads the URL by its rule.
func (c Config) Address() (Address, error) {
	bad := func(why string) (Address, error) {
		return Address{}, fmt.Errorf("clickhouse.url: got %q, which %s; want host:port, http://host:port or https://host:port", redact(c.URL), why)
	}
	a := Address{Host: c.URL}
	if scheme, _, ok := strings.Cut(c.URL, "://"); ok {
		u, err := url.Parse(c.URL)
		switch {
		case err != nil:
			return bad("is not a URL")
		case u.User != nil:
			return bad("holds a user or password; give them as clickhouse.user and clickhouse.password")
		case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
			return bad("holds more than an address")
		}
		port := map[string]string{"http": "8123", "https": "8443"}[scheme]
		if port == "" {
			return bad("begins with an unknown scheme")
		}
		a = Address{Host: u.Host, HTTP: true, TLS: scheme == "https"}
		if u.Port() == "" && u.Hostname() != "" {
			a.Host = net.JoinHostPort(u.Hostname(), port)
		}
	}
	host, port, err := net.SplitHostPort(a.Host)
	if err != nil || host == "" || port == "" {
		return bad("has no host or no port")
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return bad("has no valid port")
	}
	if !a.HTTP {
		switch port {
		case "8123":
			a.HTTP = true
		case "8443":
			a.HTTP, a.TLS = true, true
		case "9440":
			a.TLS = true
		}
	}
	return a, nil
}

// redact drops what stands before an @: it may be a password.
func redact(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

// loopback says whether ClickHouse runs on this machine.
func (a Address) loopback() bool {
	host, _, err := net.SplitHostPort(a.Host)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// Open returns a pool of connections. It does not dial: the first query does, and later ones dial again after a failure. Close it after use.
// The settings given hold for every query of the pool; nil for none.
func Open(cfg Config, settings ...ch.Settings) (driver.Conn, error) {
	a, err := cfg.Address()
	if err != nil {
		return nil, err
	}
	opt := &ch.Options{
		Addr:            []string{a.Host},
		Protocol:        ch.Native,
		Auth:            ch.Auth{Database: cfg.Database, Username: cfg.User, Password: cfg.Password},
		Compression:     &ch.Compression{Method: ch.CompressionLZ4},
		Settings:        ch.Settings{},
		DialTimeout:     cfg.DialTimeout,
		ReadTimeout:     cfg.ReadTimeout,
		MaxOpenConns:    cfg.MaxConns,
		MaxIdleConns:    cfg.MaxConns,
		ConnMaxLifetime: time.Hour,
	}
	if a.HTTP {
		opt.Protocol = ch.HTTP
	}
	if a.loopback() {
		opt.Compression = nil // both ends would pay for what the wire does not save
	}
	if a.TLS {
		host, _, _ := net.SplitHostPort(a.Host)
		opt.TLS = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	}
	for _, more := range settings {
		for k, v := range more {
			opt.Settings[k] = v
		}
	}
	conn, err := ch.Open(opt)
	if err != nil {
		return nil, fmt.Errorf("clickhouse at %s: %w", a.Host, err)
	}
	return conn, nil
}

// Ping succeeds when ClickHouse answers a query. (The driver's own Ping is content with an idle connection over HTTP.)
func Ping(ctx context.Context, conn driver.Conn) error {
	var one uint8
	if err := conn.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("ask clickhouse for 1: %w", err)
	}
	return nil
}

// Code returns the number of a ClickHouse error in err's chain (62 is a syntax error, 241 the memory limit), or 0 when the server did not answer.
func Code(err error) int32 {
	var e *ch.Exception
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}
