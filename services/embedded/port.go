package embedded

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// portSetting is how the user changes a port; errors about it name both ways.
type portSetting struct{ name, flag, env string }

var (
	kafkaPort      = portSetting{"kafka", "--kafka-port", "KAFKA_PORT"}
	nativePort     = portSetting{"clickhouse", "--clickhouse-port", "CLICKHOUSE_PORT"}
	clickhouseHTTP = portSetting{"clickhouse http", "--clickhouse-http-port", "CLICKHOUSE_HTTP_PORT"}
)

// listen listens on host:port. Its error names the port and what to do.
func (s portSetting) listen(host string, port int) (net.Listener, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s port %d is taken (%w); choose another with %s or %s, or 0 for a free one", s.name, port, err, s.flag, s.env)
	case err != nil:
		return nil, fmt.Errorf("%s port %d: %w; choose another with %s or %s", s.name, port, err, s.flag, s.env)
	}
	return ln, nil
}

// reserve finds out that port is free, or picks a free one for 0. It is free
// again on return, for a process that can not inherit a listener.
func (s portSetting) reserve(host string, port int) (int, error) {
	ln, err := s.listen(host, port)
	if err != nil {
		return 0, err
	}
	port = ln.Addr().(*net.TCPAddr).Port
	return port, ln.Close()
}

// checkLoopback refuses hosts that other machines could reach: neither part
// asks for a password.
func checkLoopback(part, host string) error {
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%s host: got %q, want a loopback address such as 127.0.0.1: the embedded part asks for no password", part, host)
	}
	return nil
}
