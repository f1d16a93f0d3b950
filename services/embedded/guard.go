package embedded

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	maxRequest = 100 << 20 // bytes, as Kafka's socket.request.max.bytes
	maxClients = 1024      // connections at a time
	minRequest = 8         // bytes of the shortest request header
)

// guardedListener keeps strangers from harming the broker. kfake trusts what it
// reads: it makes a buffer of whatever size a request claims (a browser's "GET "
// reads as 1.2 GB) and panics on an unknown request key, which would end all of
// `earshot up`.
type guardedListener struct {
	net.Listener
	log     *slog.Logger
	clients atomic.Int64
}

// Accept returns the next connection below the limit, guarded.
func (l *guardedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.clients.Add(1) <= maxClients {
			return l.guard(conn), nil
		}
		l.clients.Add(-1)
		_ = conn.Close()
		l.log.Warn("embedded broker refused a connection", "err", fmt.Sprintf("%d are open, the most allowed", maxClients))
	}
}

func (l *guardedListener) guard(conn net.Conn) *guardedConn {
	return &guardedConn{Conn: conn, l: l, r: bufio.NewReaderSize(conn, 16<<10)}
}

// guardedConn lets whole Kafka requests through and ends at the first that is
// none. Only one goroutine reads.
type guardedConn struct {
	net.Conn
	l      *guardedListener
	r      *bufio.Reader
	left   int // bytes of the current request still to be read
	closed sync.Once
}

// Read reads from the connection, never across the border of two requests.
func (c *guardedConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		head, err := c.r.Peek(8)
		if err != nil {
			return 0, err
		}
		if err := checkRequest(head); err != nil {
			c.l.log.Warn("embedded broker closed a connection", "remote", c.RemoteAddr().String(), "err", err)
			return 0, err
		}
		c.left = 4 + int(binary.BigEndian.Uint32(head))
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// Close closes the connection; kfake does so more than once.
func (c *guardedConn) Close() error {
	c.closed.Do(func() { c.l.clients.Add(-1) })
	return c.Conn.Close()
}

// checkRequest looks at a request's size, key and version, its first 8 bytes.
func checkRequest(head []byte) error {
	size := binary.BigEndian.Uint32(head)
	if size < minRequest || size > maxRequest {
		return fmt.Errorf("not a Kafka request: got a size of %d bytes, want %d to %d", size, minRequest, maxRequest)
	}
	key, version := int16(binary.BigEndian.Uint16(head[4:])), int16(binary.BigEndian.Uint16(head[6:]))
	req := kmsg.RequestForKey(key)
	if req == nil {
		return fmt.Errorf("not a Kafka request: got the unknown request key %d", key)
	}
	// A client asks for versions with the newest it knows, and is answered.
	if version < 0 || (version > req.MaxVersion() && key != int16(kmsg.ApiVersions)) {
		return fmt.Errorf("%s request: got version %d, want 0 to %d", kmsg.NameForKey(key), version, req.MaxVersion())
	}
	return nil
}
