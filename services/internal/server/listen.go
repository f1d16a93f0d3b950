package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Port is a port by the names its users know.
type Port struct {
	Name string // as in "grpc port"
	Flag string
	Env  string
}

// The ports of this package's servers.
var (
	GRPCPort    = Port{"grpc", "--grpc-port", "GRPC_PORT"}
	HTTPPort    = Port{"http", "--http-port", "SERVER_PORT"}
	MetricsPort = Port{"metrics", "--metrics-port", "METRICS_PORT"}
)

// Listen opens addr, a host:port; port 0 picks a free one. Its errors name the port and the setting that changes it.
func Listen(ctx context.Context, p Port, addr string) (net.Listener, error) {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err == nil {
		return lis, nil
	}
	host, port, splitErr := net.SplitHostPort(addr)
	choose := fmt.Sprintf("choose another with %s or %s, 0 for a free one", p.Flag, p.Env)
	switch {
	case splitErr != nil:
		return nil, fmt.Errorf("%s address %q: want host:port", p.Name, addr)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s port %s is taken; %s", p.Name, port, choose)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s port %s needs rights that this user lacks; %s", p.Name, port, choose)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s address %s is not of this machine; listen on another host", p.Name, host)
	}
	return nil, fmt.Errorf("%s port %s: %w; %s", p.Name, port, err, choose)
}

func (s *GRPC) limit(lis net.Listener) net.Listener {
	return Limit(lis, s.cfg.MaxConns, s.cfg.MaxConnsPerAddress, func(addr netip.Addr) {
		s.tel.Log.Warn("connections over the cap are closed", "address", addr, "max_conns", s.cfg.MaxConns, "max_conns_per_addr", s.cfg.MaxConnsPerAddress)
	})
}

// Limit returns a listener that closes connections beyond most in all, or beyond each from one address (IPv6: one /64), as soon as they come; 0
// is no bound. refused hears of them, at most once a second.
func Limit(lis net.Listener, most, each int, refused func(netip.Addr)) net.Listener {
	return &limited{Listener: lis, most: most, each: each, refused: refused, from: map[netip.Addr]int{}}
}

type limited struct {
	net.Listener
	most, each int
	refused    func(netip.Addr)

	mu   sync.Mutex
	all  int
	from map[netip.Addr]int
	told time.Time
}

// Accept waits for the next connection within the bounds.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err //nolint:wrapcheck // servers look for the listener's own errors
		}
		addr := source(c)
		if l.enter(addr) {
			return &limitedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(addr) })}, nil
		}
		_ = c.Close()
	}
}

func (l *limited) enter(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.most > 0 && l.all >= l.most || l.each > 0 && l.from[addr] >= l.each {
		if now := time.Now(); now.Sub(l.told) >= time.Second {
			l.told = now
			l.refused(addr)
		}
		return false
	}
	l.all++
	l.from[addr]++
	return true
}

func (l *limited) leave(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.from[addr]--; l.from[addr] == 0 {
		delete(l.from, addr)
	}
}

// source returns what counts as one address: an IPv6 client has a whole /64 to itself.
func source(c net.Conn) netip.Addr {
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.Is6() {
		p, _ := addr.Prefix(64)
		return p.Addr()
	}
	return addr
}

type limitedConn struct {
	net.Conn
	leave func()
}

// Close closes the connection and makes room for another.
func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
