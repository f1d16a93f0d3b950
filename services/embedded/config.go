package embedded

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

// serverXML is the engine's configuration: UTC, bounded memory, and pools for a
// laptop of two cores, where the defaults are for a large server.
var serverXML = xmlTemplate("config.xml", `<clickhouse>
  <!-- Written at each start of earshot; changes are lost. -->
  <logger>
    <log>{{.LogFile}}</log>
    <size>10M</size>
    <count>2</count>
  </logger>
  <timezone>UTC</timezone>
  <users_config>{{.UsersFile}}</users_config>

  <max_server_memory_usage>{{.MemoryLimit}}</max_server_memory_usage>
  <max_server_memory_usage_to_ram_ratio>0.5</max_server_memory_usage_to_ram_ratio>
  <mark_cache_size>134217728</mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <max_concurrent_queries>100</max_concurrent_queries>
  <max_connections>1024</max_connections>

  <background_pool_size>4</background_pool_size>
  <background_schedule_pool_size>8</background_schedule_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <background_fetches_pool_size>1</background_fetches_pool_size>
  <background_move_pool_size>1</background_move_pool_size>
  <merge_tree>
    <!-- Must fit into the pool of 4 threads above, which takes 8 tasks. -->
    <number_of_free_entries_in_pool_to_execute_mutation>2</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>2</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>2</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
{{- if .SpanLog}}
  <opentelemetry_span_log>
    <database>system</database>
    <table>opentelemetry_span_log</table>
    <engine>ENGINE = MergeTree PARTITION BY finish_date ORDER BY (finish_date, finish_time_us, trace_id) TTL finish_date + INTERVAL 3 DAY</engine>
    <flush_interval_milliseconds>1000</flush_interval_milliseconds>
  </opentelemetry_span_log>
{{- end}}
</clickhouse>
`)

// usersXML declares the engine's two users, who can come from this machine only.
var usersXML = xmlTemplate("users.xml", `<clickhouse>
  <!-- Written at each start of earshot; changes are lost. -->
  <profiles>
    <!-- At an orderly end the engine waits for idle connections to look up, which they do this often (s). -->
    <default><poll_interval>1</poll_interval></default>
    <reader>
      <poll_interval>1</poll_interval>
      <readonly>2</readonly>
      <max_execution_time>30</max_execution_time>
      <max_memory_usage>{{.ReaderMemory}}</max_memory_usage>
    </reader>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password/>
      <networks><ip>127.0.0.0/8</ip><ip>::1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <access_management>1</access_management>
    </default>
    <`+ReaderUser+`>
      <password/>
      <networks><ip>127.0.0.0/8</ip><ip>::1</ip></networks>
      <profile>reader</profile>
      <quota>default</quota>
    </`+ReaderUser+`>
  </users>
</clickhouse>
`)

// xmlTemplate parses text. The template escapes nothing: settings come escaped.
func xmlTemplate(name, text string) *template.Template {
	return template.Must(template.New(name).Option("missingkey=error").Parse(text))
}

// settings fills both templates. The strings are escaped already.
type settings struct {
	LogFile, UsersFile        string
	MemoryLimit, ReaderMemory int64 // bytes
	SpanLog                   bool
}

// writeConfig writes config.xml and users.xml into dir; memory is in bytes.
func writeConfig(dir string, memory int64, spanLog bool) error {
	users := filepath.Join(dir, "users.xml")
	s := settings{
		LogFile: escape(filepath.Join(dir, "clickhouse.log")), UsersFile: escape(users),
		MemoryLimit: memory, ReaderMemory: memory / 4, SpanLog: spanLog,
	}
	if err := render(users, usersXML, s); err != nil {
		return err
	}
	return render(filepath.Join(dir, "config.xml"), serverXML, s)
}

func render(path string, t *template.Template, s settings) error {
	var b bytes.Buffer
	if err := t.Execute(&b, s); err != nil {
		return fmt.Errorf("render %s: %w", path, err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write clickhouse configuration: %w", err)
	}
	return nil
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a bytes.Buffer takes everything
	return b.String()
}
