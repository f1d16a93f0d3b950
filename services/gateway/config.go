package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Config says what the gateway takes, and from whom. Start from DefaultConfig.
type Config struct {
	MaxBody        int           `yaml:"max_body"`        // bytes of a request's body; at least 1 KiB
	MaxBatchBody   int           `yaml:"max_batch_body"`  // bytes of a batch's body; at least max_body
	CallDeadline   time.Duration `yaml:"call_deadline"`   // longest unary call; callers may ask for less with Grpc-Timeout; at least 100ms
	ProbeWait      time.Duration `yaml:"probe_wait"`      // longest wait for one dependency's health; at least 10ms
	ProbeEvery     time.Duration `yaml:"probe_every"`     // how long an answer about health is good for; at least 10ms
	CORSOrigins    []string      `yaml:"cors_origins"`    // origins, exactly as browsers send them (https://app.example), whose pages may call us; none by default
	Hosts          []string      `yaml:"hosts"`           // names we answer to beside localhost and IP addresses; "*" for any. Others may be another site's, pointed here
	TrustedProxies []string      `yaml:"trusted_proxies"` // addresses (10.0.0.0/8) whose X-Forwarded-For is believed; none by default
	Version        string        `yaml:"-"`               // shown in the OpenAPI document
}

// DefaultConfig returns the bounds as documented, with no origin, name or proxy beyond this machine's.
func DefaultConfig() Config {
	return Config{
		MaxBody:      64 << 10,
		MaxBatchBody: 8 << 20,
		CallDeadline: 10 * time.Second,
		ProbeWait:    2 * time.Second,
		ProbeEvery:   time.Second,
		Version:      "1",
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf("gateway."+format, args...)) }
	if c.MaxBody < 1<<10 {
		fault("max_body: got %d, want at least %d", c.MaxBody, 1<<10)
	}
	if c.MaxBatchBody < c.MaxBody {
		fault("max_batch_body: got %d, want at least max_body, %d", c.MaxBatchBody, c.MaxBody)
	}
	if c.CallDeadline < 100*time.Millisecond {
		fault("call_deadline: got %v, want at least 100ms", c.CallDeadline)
	}
	if c.ProbeWait < 10*time.Millisecond {
		fault("probe_wait: got %v, want at least 10ms", c.ProbeWait)
	}
	if c.ProbeEvery < 10*time.Millisecond {
		fault("probe_every: got %v, want at least 10ms", c.ProbeEvery)
	}
	for _, o := range c.CORSOrigins {
		if u, err := url.Parse(o); err != nil || u.Scheme != "http" && u.Scheme != "https" || o != u.Scheme+"://"+u.Host || u.Host == "" || o != strings.ToLower(o) {
			fault("cors_origins: got %q, want scheme and host in lower case, such as https://app.example", o)
		}
	}
	for _, h := range c.Hosts {
		if h == "" || h != "*" && strings.ContainsAny(h, "*/: ") {
			fault("hosts: got %q, want a name without port, or *", h)
		}
	}
	for _, p := range c.TrustedProxies {
		if _, err := parsePrefix(p); err != nil {
			fault("trusted_proxies: got %q, want an address or a range such as 10.0.0.0/8", p)
		}
	}
	return errors.Join(errs...)
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("parse address range: %w", err)
	}
	return p.Masked(), nil
}
