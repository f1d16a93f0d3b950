package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// setting is one thing people can set: by flag, environment or YAML file. They win in that order; then the default holds.
type setting struct {
	path   string // in YAML: sink.batch_rows
	flag   string // --sink-batch-rows
	env    string // SINK_BATCH_ROWS
	usage  string
	secret bool
	value  pflag.Value
	def    string
	from   string // default, file, environment or flag
}

// settings is the table of all of them, in the order they are shown.
type settings struct {
	list []*setting
	by   map[string]*setting // by path
}

// option changes how a setting is known.
type option func(*setting)

func flagged(name string) option { return func(s *setting) { s.flag = name } }
func env(name string) option     { return func(s *setting) { s.env = name } }
func secret(s *setting)          { s.secret = true }

func (t *settings) add(path, usage string, v pflag.Value, opts ...option) {
	s := &setting{path: path, usage: usage, value: v, def: v.String(), from: "default"}
	s.flag = strings.NewReplacer(".", "-", "_", "-").Replace(path)
	s.env = strings.ToUpper(strings.NewReplacer(".", "_").Replace(path))
	for _, o := range opts {
		o(s)
	}
	if t.by == nil {
		t.by = map[string]*setting{}
	}
	if t.by[path] != nil {
		panic("setting defined twice: " + path)
	}
	t.by[path] = s
	t.list = append(t.list, s)
}

// flags adds every setting to a command's flags, with its environment variable beside it.
func (t *settings) flags(fs *pflag.FlagSet) {
	for _, s := range t.list {
		f := fs.VarPF(s.value, s.flag, "", s.usage+" ["+s.env+"]")
		if s.value.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
		if s.secret {
			f.DefValue = ""
		}
	}
}

// load fills in what the flags left open, from the environment and then the file. Every fault is reported at once.
func (t *settings) load(fs *pflag.FlagSet, file string, lookup func(string) (string, bool)) error {
	inFile, err := readSettings(file)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range t.list {
		s.from = "default"
		text, ok := inFile[s.path]
		delete(inFile, s.path)
		where := file + ": " + s.path
		if ok {
			s.from = "file"
		}
		if v, set := lookup(s.env); set && v != "" { // an empty variable counts as absent, as in compose files
			text, ok, where = v, true, s.env
			s.from = "environment"
		}
		if fs != nil && fs.Changed(s.flag) {
			s.from = "flag"
			continue
		}
		if !ok {
			continue
		}
		if err := s.value.Set(text); err != nil {
			errs = append(errs, fmt.Errorf("%s: got %s, want %s", where, s.shown(text), wanted(s.value.Type())))
		}
	}
	for path := range inFile {
		errs = append(errs, fmt.Errorf("%s: %s is not a setting; see: earshot config print", file, path))
	}
	return errors.Join(errs...)
}

func wanted(kind string) string {
	switch kind {
	case "duration":
		return `a duration such as "90s" or "1h30m"`
	case "bool":
		return "true or false"
	case "int":
		return "a whole number"
	case "list":
		return "values separated by commas"
	}
	return "a " + kind
}

func (s *setting) shown(text string) string {
	if s.secret {
		return "(secret)"
	}
	return strconv.Quote(text)
}

// readSettings reads a YAML file into dotted paths.
func readSettings(file string) (map[string]string, error) {
	flat := map[string]string{}
	if file == "" {
		return flat, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(b, &tree); err != nil {
		return nil, fmt.Errorf("read settings from %s: %w", file, err)
	}
	flatten("", tree, flat)
	return flat, nil
}

func flatten(prefix string, tree map[string]any, into map[string]string) {
	for k, v := range tree {
		path := strings.TrimPrefix(prefix+"."+k, ".")
		switch v := v.(type) {
		case map[string]any:
			flatten(path, v, into)
		case []any:
			parts := make([]string, len(v))
			for i, p := range v {
				parts[i] = fmt.Sprint(p)
			}
			into[path] = strings.Join(parts, ",")
		case nil:
			into[path] = ""
		default:
			into[path] = fmt.Sprint(v)
		}
	}
}

// print writes the settings as YAML that load reads again, each with its source; secrets are masked.
func (t *settings) print(w io.Writer, effective bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	section := ""
	for _, s := range t.bySection() {
		head, name, _ := strings.Cut(s.path, ".")
		if head != section {
			section = head
			fmt.Fprintf(tw, "%s:\n", section)
		}
		v, note := s.def, s.usage
		if effective {
			v, note = s.value.String(), "from "+s.from
		}
		if s.secret && v != "" { // as a comment, so that the mask is never read as the secret
			fmt.Fprintf(tw, "  # %s: ********\t# %s [--%s, %s]\n", name, note, s.flag, s.env)
			continue
		}
		if slices.Contains([]string{"string", "list"}, s.value.Type()) {
			v = strconv.Quote(v)
		}
		fmt.Fprintf(tw, "  %s: %s\t# %s [--%s, %s]\n", name, v, note, s.flag, s.env)
	}
	return tw.Flush()
}

// bySection returns the settings with those of a section together: YAML knows a section once. Sections come in the order of their first setting.
func (t *settings) bySection() []*setting {
	first := map[string]int{}
	section := func(s *setting) string { head, _, _ := strings.Cut(s.path, "."); return head }
	for i, s := range t.list {
		if _, ok := first[section(s)]; !ok {
			first[section(s)] = i
		}
	}
	sorted := slices.Clone(t.list)
	slices.SortStableFunc(sorted, func(a, b *setting) int { return first[section(a)] - first[section(b)] })
	return sorted
}

// Values for the kinds of settings there are.
type (
	stringValue   struct{ p *string }
	intValue      struct{ p *int }
	boolValue     struct{ p *bool }
	durationValue struct{ p *time.Duration }
	listValue     struct{ p *[]string }
)

func (v stringValue) String() string     { return *v.p }
func (v stringValue) Set(s string) error { *v.p = s; return nil }
func (v stringValue) Type() string       { return "string" }

func (v intValue) String() string { return strconv.Itoa(*v.p) }
func (v intValue) Set(s string) (err error) {
	n, err := strconv.Atoi(s)
	if err == nil {
		*v.p = n
	}
	return err
}
func (v intValue) Type() string { return "int" }

func (v boolValue) String() string { return strconv.FormatBool(*v.p) }
func (v boolValue) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err == nil {
		*v.p = b
	}
	return err
}
func (v boolValue) Type() string { return "bool" }

func (v durationValue) String() string { return shortDuration(*v.p) }
func (v durationValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err == nil {
		*v.p = d
	}
	return err
}
func (v durationValue) Type() string { return "duration" }

// shortDuration writes 1h30m and not 1h30m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (v listValue) String() string { return strings.Join(*v.p, ",") }
func (v listValue) Set(s string) error {
	*v.p = nil
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*v.p = append(*v.p, part)
		}
	}
	return nil
}
func (v listValue) Type() string { return "list" }
