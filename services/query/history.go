package query

import (
	"context"
	"regexp"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/earshot/earshot/services/internal/telemetry"
)

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// history asks ClickHouse.
type history struct {
	cfg     Config
	db      driver.Conn
	tel     telemetry.T
	metrics *metrics
}

func (h history) ping(ctx context.Context) error { return h.db.Ping(ctx) }
