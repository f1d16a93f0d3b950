// Package compose checks the files of the compose stack as far as that goes without a Docker engine:
// that Compose accepts them, and that they keep the promises of CONTRIBUTING.md and .env.example.
package compose

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/earshot/earshot/services/internal/kafka"
)

const root = "../../.."

// settings returns .env.example as it is after scripts/make-env.sh: every setting has a value.
func settings(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join(root, ".env.example"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	env := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf(".env.example: line %q is neither a comment nor NAME=value", line)
		}
		if value == "" {
			value = "secret-of-this-test"
		}
		env[name] = value
	}
	return env
}

func load(t *testing.T, env map[string]string) (*types.Project, error) {
	t.Helper()
	file := filepath.Join(root, "docker-compose.yml")
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  root,
		ConfigFiles: []types.ConfigFile{{Filename: file}},
		Environment: env,
	}, func(o *loader.Options) {
		o.SetProjectName("earshot", false)
		o.Profiles = []string{"*"}
	})
}

func project(t *testing.T) *types.Project {
	t.Helper()
	p, err := load(t, settings(t))
	if err != nil {
		t.Fatalf("docker-compose.yml: %v", err)
	}
	return p
}

func TestServicesAreAllThere(t *testing.T) {
	got := project(t).ServiceNames()
	want := []string{
		"clickhouse", "gateway", "grafana", "ingest", "kafka", "kafka-ui", "otel-collector", "processor",
		"prometheus", "query", "schema", "simulator", "sink", "tempo", "topics",
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("services: got %q, want %q", got, want)
	}
}

func TestMountedFilesExist(t *testing.T) {
	for name, s := range project(t).Services {
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s: mounts %s: %v", name, v.Source, err)
			}
			if !v.ReadOnly {
				t.Errorf("%s: mounts %s writable, want :ro", name, v.Source)
			}
		}
	}
}

// An order of start-up is worth nothing without waiting for the state that is needed.
func TestDependenciesWaitForAState(t *testing.T) {
	p := project(t)
	for name, s := range p.Services {
		for on, dep := range s.DependsOn {
			target := p.Services[on]
			switch dep.Condition {
			case types.ServiceConditionHealthy:
				inImage := target.Build != nil // the Dockerfile has a HEALTHCHECK
				if target.HealthCheck == nil && !inImage || target.HealthCheck != nil && target.HealthCheck.Disable {
					t.Errorf("%s waits for %s to be healthy, which has no health check", name, on)
				}
			case types.ServiceConditionCompletedSuccessfully:
				if target.Restart == types.RestartPolicyAlways || target.Restart == types.RestartPolicyUnlessStopped {
					t.Errorf("%s waits for %s to complete, which restarts for ever", name, on)
				}
			default:
				t.Errorf("%s depends on %s with condition %q, want service_healthy or service_completed_successfully", name, on, dep.Condition)
			}
		}
	}
}

func TestPortsAreOnLoopback(t *testing.T) {
	taken := map[string]string{}
	for name, s := range project(t).Services {
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %d on %q, want 127.0.0.1", name, port.Target, port.HostIP)
			}
			if other, ok := taken[port.Published]; ok {
				t.Errorf("%s and %s both publish port %s", name, other, port.Published)
			}
			taken[port.Published] = name
		}
	}
}

func TestEveryServiceIsBounded(t *testing.T) {
	for name, s := range project(t).Services {
		if s.Deploy == nil || s.Deploy.Resources.Limits == nil || s.Deploy.Resources.Limits.MemoryBytes == 0 {
			t.Errorf("%s has no memory limit", name)
		}
		if s.Logging == nil || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
			t.Errorf("%s has no log rotation", name)
		}
		if s.Restart == "" {
			t.Errorf("%s has no restart policy", name)
		}
	}
}

// What Compose is asked to fill in is listed in .env.example, and the other way round.
func TestSettingsAreDocumented(t *testing.T) {
	text := read(t, "docker-compose.yml")
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`\$\{([A-Z_]+)[:}]`).FindAllStringSubmatch(text, -1) {
		used[m[1]] = true
	}
	documented := settings(t)
	for name := range used {
		if _, ok := documented[name]; !ok {
			t.Errorf("docker-compose.yml uses %s, which .env.example does not list", name)
		}
	}
	for name := range documented {
		if !used[name] {
			t.Errorf(".env.example lists %s, which docker-compose.yml does not use", name)
		}
	}
	for _, m := range regexp.MustCompile(`\$\{([A-Z_]+):-([^}]*)\}`).FindAllStringSubmatch(text, -1) {
		if documented[m[1]] != m[2] {
			t.Errorf("%s: default %q in docker-compose.yml, %q in .env.example", m[1], m[2], documented[m[1]])
		}
	}
}

func TestSecretsAreRequiredAndNeverLiteral(t *testing.T) {
	full := settings(t)
	for name := range full {
		if !strings.HasSuffix(name, "PASSWORD") {
			continue
		}
		env := map[string]string{}
		for k, v := range full {
			env[k] = v
		}
		env[name] = ""
		if _, err := load(t, env); err == nil || !strings.Contains(err.Error(), "scripts/make-env.sh") {
			t.Errorf("without %s: got error %v, want one that names scripts/make-env.sh", name, err)
		}
	}
	// As written, before anything is filled in.
	filled := regexp.MustCompile(`\$\{[^}]*\}|\$[A-Z_]+|from_env="[A-Z_]+"|#.*`)
	literal := regexp.MustCompile(`(?i)password\w*["']?\s*[:=>]\s*["']?[^\s"'<]`)
	files := []string{"docker-compose.yml", ".env.example", "clickhouse/reader.xml", "kafka/ui.yaml", "grafana/provisioning/datasources/datasources.yaml"}
	for _, file := range files {
		for i, line := range strings.Split(read(t, file), "\n") {
			if literal.MatchString(filled.ReplaceAllString(line, "")) {
				t.Errorf("%s:%d: a literal secret: %s", file, i+1, line)
			}
		}
	}
}

func TestServicesRunUnderTheirNameWithoutRights(t *testing.T) {
	p := project(t)
	for _, name := range []string{"ingest", "gateway", "processor", "sink", "query"} {
		s := p.Services[name]
		if len(s.Command) == 0 || s.Command[0] != name {
			t.Errorf("%s runs %q, want its own sub-command", name, s.Command)
		}
		if got := s.Environment["OTEL_SERVICE_NAME"]; got == nil || *got != name {
			t.Errorf("%s has OTEL_SERVICE_NAME %v, want its own name", name, got)
		}
		if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") {
			t.Errorf("%s runs with a writable root or with capabilities", name)
		}
	}
	if user := p.Services["query"].Environment["CLICKHOUSE_USER"]; user == nil || *user != "earshot_reader" {
		t.Errorf("query reads as %v, want earshot_reader", user)
	}
}

// TestPrometheusScrapesEveryService reads the targets that prometheus.yml names.
func TestPrometheusScrapesEveryService(t *testing.T) {
	var cfg struct {
		ScrapeConfigs []struct {
			JobName string `yaml:"job_name"`
			DNS     []struct {
				Names []string `yaml:"names"`
				Port  int      `yaml:"port"`
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	decode(t, "prometheus/prometheus.yml", &cfg)
	p := project(t)
	scraped := map[string]bool{}
	for _, job := range cfg.ScrapeConfigs {
		for _, dns := range job.DNS {
			for _, name := range dns.Names {
				if _, err := p.GetService(name); err != nil || name != job.JobName || dns.Port != 9464 {
					t.Errorf("job %s scrapes %s:%d, want the service of its name at port 9464", job.JobName, name, dns.Port)
				}
				scraped[name] = true
			}
		}
	}
	for _, name := range []string{"ingest", "gateway", "processor", "sink", "query"} {
		if !scraped[name] {
			t.Errorf("prometheus.yml does not scrape %s", name)
		}
	}
}

// TestKafkaUIKnowsTheRecords compares what it decodes with the registry of topics.
func TestKafkaUIKnowsTheRecords(t *testing.T) {
	var cfg struct {
		Kafka struct {
			Clusters []struct {
				ReadOnly bool `yaml:"readOnly"`
				Serde    []struct {
					TopicValuesPattern string `yaml:"topicValuesPattern"`
					Properties         struct {
						ByTopic map[string]string `yaml:"protobufMessageNameByTopic"`
					} `yaml:"properties"`
				} `yaml:"serde"`
			} `yaml:"clusters"`
		} `yaml:"kafka"`
	}
	decode(t, "kafka/ui.yaml", &cfg)
	cluster := cfg.Kafka.Clusters[0]
	if !cluster.ReadOnly {
		t.Error("the UI may write; want readOnly")
	}
	pattern := regexp.MustCompile("^(" + cluster.Serde[0].TopicValuesPattern + ")$")
	got := cluster.Serde[0].Properties.ByTopic
	want := map[string]string{}
	for _, topic := range kafka.DefaultTopics().Sources() {
		key := topic.Name
		if strings.Contains(key, ".") {
			key = "[" + key + "]" // or the dots are taken for nesting
		}
		message := topic.Value().ProtoReflect().Descriptor()
		want[key] = string(message.FullName())
		if !pattern.MatchString(topic.Name) {
			t.Errorf("%s is not in topicValuesPattern", topic.Name)
		}
		imports := message.ParentFile().Imports()
		for i := range imports.Len() {
			path := imports.Get(i).Path()
			if !strings.HasPrefix(path, "google/protobuf/") && !strings.HasPrefix(path, "earshot/event/v1/") {
				t.Errorf("%s imports %s, which the UI does not have", message.ParentFile().Path(), path)
			}
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("protobufMessageNameByTopic (-got, +want):\n%s", diff)
	}
}

func TestScriptsAreExecutableAndParse(t *testing.T) {
	for _, file := range []string{
		"scripts/create-topics.sh", "scripts/health-check.sh", "scripts/make-env.sh", "scripts/third-party-protos.sh",
		"kafka/create-topics.sh", ".ci/run",
	} {
		path := filepath.Join(root, file)
		info, err := os.Stat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode()&0o111 == 0 {
			t.Errorf("%s is not executable", file)
		}
		shell := "sh"
		if strings.HasPrefix(read(t, file), "#!/usr/bin/env bash") {
			shell = "bash"
		}
		if out, err := exec.CommandContext(t.Context(), shell, "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// TestMakeEnvFillsTheSecrets runs the script in a copy of the folder it works in.
func TestMakeEnvFillsTheSecrets(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "scripts"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{".env.example", "scripts/make-env.sh"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(read(t, file)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func() string {
		out, err := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "scripts/make-env.sh")).CombinedOutput()
		if err != nil {
			t.Fatalf("make-env.sh: %v\n%s", err, out)
		}
		b, err := os.ReadFile(filepath.Join(dir, ".env"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := run()
	for _, name := range []string{"CLICKHOUSE_PASSWORD", "CLICKHOUSE_READER_PASSWORD", "GRAFANA_ADMIN_PASSWORD"} {
		if !regexp.MustCompile(`(?m)^` + name + `=[0-9a-f]{48}$`).MatchString(first) {
			t.Errorf("%s is not 24 random bytes", name)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, ".env")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf(".env: mode %v, error %v, want 0600", info.Mode(), err)
	}
	if second := run(); second != first {
		t.Error("a second run changed .env, which the volumes' passwords come from")
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// decode reads a YAML file into v. Fields that v does not have are left out.
func decode(t *testing.T, file string, v any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, file)), v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
