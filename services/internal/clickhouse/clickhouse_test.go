package clickhouse_test

import (
	"strings"
	"testing"

	"github.com/earshot/earshot/services/internal/clickhouse"
)

func TestAddress(t *testing.T) {
	for url, want := range map[string]clickhouse.Address{
		"clickhouse:9000":          {Host: "clickhouse:9000"},
		"clickhouse:8123":          {Host: "clickhouse:8123", HTTP: true},
		"clickhouse:8443":          {Host: "clickhouse:8443", HTTP: true, TLS: true},
		"clickhouse:9440":          {Host: "clickhouse:9440", TLS: true},
		"127.0.0.1:1":              {Host: "127.0.0.1:1"},
		"[::1]:9000":               {Host: "[::1]:9000"},
		"http://clickhouse:9000":   {Host: "clickhouse:9000", HTTP: true},
		"http://clickhouse":        {Host: "clickhouse:8123", HTTP: true},
		"http://[::1]":             {Host: "[::1]:8123", HTTP: true},
		"https://clickhouse":       {Host: "clickhouse:8443", HTTP: true, TLS: true},
		"https://clickhouse:8123/": {Host: "clickhouse:8123", HTTP: true, TLS: true},
	} {
		got, err := clickhouse.Config{URL: url}.Address()
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", url, got, err, want)
		}
	}
}

func TestAddressRefuses(t *testing.T) {
	for _, url := range []string{
		"", "clickhouse", ":9000", "clickhouse:", "clickhouse:90000", "tcp://clickhouse:9000", "http://", "http://h:8123/db", "http://h:8123?x=1",
		"http://:8123", "http://bob:sesame@h:8123", "bob:sesame@h:9000:1", "http://h:port",
	} {
		_, err := clickhouse.Config{URL: url}.Address()
		if err == nil {
			t.Errorf("%q was taken", url)
		} else if strings.Contains(err.Error(), "sesame") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	if err := clickhouse.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := clickhouse.Config{}.Validate()
	for _, setting := range []string{"clickhouse.url", "clickhouse.user", "clickhouse.dial_timeout", "clickhouse.read_timeout", "clickhouse.max_conns"} {
		if err == nil || !strings.Contains(err.Error(), setting) {
			t.Errorf("the error does not name %s: %v", setting, err)
		}
	}
}
