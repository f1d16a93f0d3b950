package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// web is the client of all tests: no proxy, and nothing outlives a request for long.
var web = &http.Client{Timeout: time.Minute, Transport: &http.Transport{IdleConnTimeout: time.Second}}

// Select runs SQL over ClickHouse's HTTP interface, as a person with curl does, and returns its rows. Columns are matched by T's JSON names; times
// come as RFC 3339.
func Select[T any](addr, sql string) ([]T, error) {
	set := url.Values{"default_format": {"JSONEachRow"}, "date_time_output_format": {"iso"}, "output_format_json_quote_64bit_integers": {"0"}, "wait_end_of_query": {"1"}}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+addr+"/?"+set.Encode(), strings.NewReader(sql))
	if err != nil {
		return nil, err
	}
	resp, err := web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 2000))
		return nil, fmt.Errorf("%s: status %d: %s", sql, resp.StatusCode, b)
	}
	var rows []T
	for d := json.NewDecoder(resp.Body); ; {
		var row T
		if err := d.Decode(&row); errors.Is(err, io.EOF) {
			return rows, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: row %d: %w", sql, len(rows)+1, err)
		}
		rows = append(rows, row)
	}
}

// Rows is Select for a query that must succeed.
func Rows[T any](tb testing.TB, addr, sql string) []T {
	tb.Helper()
	rows, err := Select[T](addr, sql)
	if err != nil {
		tb.Fatal(err)
	}
	return rows
}

// Number returns the only number of a query's answer.
func Number(tb testing.TB, addr, sql string) int {
	tb.Helper()
	rows := Rows[map[string]int](tb, addr, sql)
	if len(rows) != 1 || len(rows[0]) != 1 {
		tb.Fatalf("%s: got %v, want one number", sql, rows)
	}
	for _, n := range rows[0] {
		return n
	}
	return 0
}
