package compose

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// metrics are the names that dashboards may use: those of Earshot's own code, of gRPC, of Go and of the process.
var metrics = []string{
	"up",
	"earshot_ingest_messages_total", "earshot_ingest_bytes_total", "earshot_ingest_ack_duration_seconds",
	"earshot_processor_records_total", "earshot_processor_watermark_seconds", "earshot_processor_late_total",
	"earshot_processor_remembered", "earshot_processor_waiting", "earshot_processor_outstanding", "earshot_processor_rebuild_duration_seconds",
	"earshot_sink_rows_total", "earshot_sink_insert_duration_seconds", "earshot_sink_delay_seconds", "earshot_sink_retries_total",
	"earshot_dead_letters_total", "earshot_kafka_lag_records", "earshot_freshness_seconds",
	"earshot_query_subscribers", "earshot_query_slow_subscribers_total", "earshot_query_duration_seconds",
	"rpc_server_call_duration_seconds",
	"go_goroutines", "go_memstats_alloc_bytes_total", "process_resident_memory_bytes",
}

// tables are those that the schema promises to its readers.
var tables = []string{
	"messages", "user_stats", "conversation_metrics", "realtime_user_activity",
	"alerts", "trends", "message_views", "conversation_windows", "user_activity",
}

type source struct {
	Type string `json:"type" yaml:"type"`
	UID  string `json:"uid" yaml:"uid"`
}

type panel struct {
	ID         int    `json:"id"`
	Type       string `json:"type"`
	Title      string `json:"title"`
	Datasource source `json:"datasource"`
	GridPos    struct{ X, Y, W, H int }
	Targets    []struct {
		Datasource source `json:"datasource"`
		Expr       string `json:"expr"`
		RawSQL     string `json:"rawSql"`
	} `json:"targets"`
}

type dashboard struct {
	UID    string  `json:"uid"`
	Title  string  `json:"title"`
	Panels []panel `json:"panels"`
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "grafana/dashboards/*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("grafana/dashboards: %d files, error %v", len(files), err)
	}
	all := map[string]dashboard{}
	for _, file := range files {
		name := filepath.Base(file)
		var d dashboard
		if err := json.Unmarshal([]byte(read(t, "grafana/dashboards/"+name)), &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = d
	}
	return all
}

func datasources(t *testing.T) map[string]source {
	t.Helper()
	var cfg struct {
		Datasources []struct {
			source `yaml:",inline"`
			Name   string `yaml:"name"`
		} `yaml:"datasources"`
	}
	decode(t, "grafana/provisioning/datasources/datasources.yaml", &cfg)
	byUID := map[string]source{}
	for _, d := range cfg.Datasources {
		if d.UID == "" || byUID[d.UID] != (source{}) {
			t.Errorf("data source %s: uid %q is empty or used twice", d.Name, d.UID)
		}
		byUID[d.UID] = d.source
	}
	return byUID
}

func TestDashboardsAreDistinct(t *testing.T) {
	uids := map[string]string{}
	for file, d := range dashboards(t) {
		if d.UID == "" || d.Title == "" {
			t.Errorf("%s: uid %q, title %q, want both", file, d.UID, d.Title)
		}
		if other, ok := uids[d.UID]; ok {
			t.Errorf("%s and %s have the same uid %s", file, other, d.UID)
		}
		uids[d.UID] = file
	}
}

func TestPanelsFitAndHaveTheirSource(t *testing.T) {
	known := datasources(t)
	for file, d := range dashboards(t) {
		ids := map[int]bool{}
		for i, p := range d.Panels {
			if ids[p.ID] {
				t.Errorf("%s: panel id %d is used twice", file, p.ID)
			}
			ids[p.ID] = true
			if p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("%s: %s is wider than the page", file, p.Title)
			}
			for _, q := range d.Panels[:i] {
				a, b := p.GridPos, q.GridPos
				if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
					t.Errorf("%s: %s lies over %s", file, p.Title, q.Title)
				}
			}
			if p.Type == "row" {
				continue
			}
			if len(p.Targets) == 0 {
				t.Errorf("%s: %s has no query", file, p.Title)
			}
			for _, target := range p.Targets {
				for _, s := range []source{p.Datasource, target.Datasource} {
					if known[s.UID] != s || s.UID == "" {
						t.Errorf("%s: %s reads from %+v, which is not provisioned", file, p.Title, s)
					}
				}
			}
		}
	}
}

func TestPanelsAskForWhatExists(t *testing.T) {
	table := regexp.MustCompile(`message_db\.(\w+)`)
	labels := regexp.MustCompile(`by \([^)]*\)|\{[^}]*\}`)
	metric := regexp.MustCompile(`\b((earshot|rpc|go|process)_\w+|up)\b`)
	for file, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				found := 0
				for _, m := range table.FindAllStringSubmatch(target.RawSQL, -1) {
					found++
					if !slices.Contains(tables, m[1]) {
						t.Errorf("%s: %s reads table %s", file, p.Title, m[1])
					}
				}
				for _, m := range metric.FindAllString(labels.ReplaceAllString(target.Expr, ""), -1) {
					found++
					histogram := strings.TrimSuffix(strings.TrimSuffix(m, "_bucket"), "_count")
					if !slices.Contains(metrics, m) && !slices.Contains(metrics, histogram) {
						t.Errorf("%s: %s uses metric %s", file, p.Title, m)
					}
				}
				if found == 0 {
					t.Errorf("%s: %s asks for no known table or metric: %q", file, p.Title, target.Expr+target.RawSQL)
				}
			}
		}
	}
}
