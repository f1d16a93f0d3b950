package gateway

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/earshot/earshot/services/internal/apierror"
)

// maxDepth is how deep JSON may nest; ours nests four deep.
const maxDepth = 32

// explain says what is wrong with a body that protojson refused as an md. protojson's own texts hold what users wrote, and no path.
//
// Depth and syntax come first, since only a whole text has fields; then the first field at fault in the order of the text.
func explain(raw []byte, md protoreflect.MessageDescriptor) *apierror.Error {
	s := scanner{b: raw}
	if e := s.document(md); e != nil {
		return e
	}
	if s.fault != nil {
		return s.fault
	}
	return apierror.Field("body", nil, "the JSON of a "+string(md.Name()), apierror.ReasonJSONInvalid)
}

// scanner walks a JSON text once (RFC 8259). Syntax ends the walk; the first fault of a field is kept and the walk goes on.
type scanner struct {
	b     []byte
	at    int
	depth int
	fault *apierror.Error
}

// target is what a value should be: a message, a field of one or an element of a field; nothing when it is in a place that is at fault itself.
type target struct {
	message protoreflect.MessageDescriptor
	field   protoreflect.FieldDescriptor
	element bool
	path    string
}

func (s *scanner) document(md protoreflect.MessageDescriptor) *apierror.Error {
	s.space()
	if len(s.b) >= 3 && string(s.b[:3]) == "\uFEFF" {
		return s.syntax("no byte order mark")
	}
	if c := s.peek(); c != '{' && (c == '[' || c == '"' || c == '-' || c >= '0' && c <= '9' || c == 't' || c == 'f' || c == 'n') {
		s.blame("body", nil, "a JSON object", false)
		md = nil
	}
	if e := s.value(target{message: md}); e != nil {
		return e
	}
	s.space()
	if s.at < len(s.b) {
		return s.syntax("nothing after the object")
	}
	return nil
}

func (s *scanner) peek() byte {
	if s.at < len(s.b) {
		return s.b[s.at]
	}
	return 0
}

func (s *scanner) space() {
	for s.at < len(s.b) && strings.IndexByte(" \t\r\n", s.b[s.at]) >= 0 {
		s.at++
	}
}

func (s *scanner) syntax(want string) *apierror.Error {
	return apierror.New(apierror.ReasonJSONInvalid, fmt.Sprintf("body: must be JSON; at byte %d must be %s", s.at, want))
}

func (s *scanner) value(t target) *apierror.Error {
	s.space()
	from := s.at
	switch c := s.peek(); c {
	case '{', '[':
		if s.depth++; s.depth > maxDepth {
			return apierror.New(apierror.ReasonJSONTooDeep, fmt.Sprintf("body: must nest at most %d deep, goes deeper at byte %d", maxDepth, s.at))
		}
		var e *apierror.Error
		if c == '{' {
			e = s.object(t)
		} else {
			e = s.array(t)
		}
		s.depth--
		return e
	case '"':
		if _, e := s.text(); e != nil {
			return e
		}
	default:
		if e := s.word(); e != nil {
			return e
		}
	}
	s.leaf(t, s.b[from:s.at])
	return nil
}

func (s *scanner) object(t target) *apierror.Error {
	md := t.message
	if t.field != nil {
		if md = t.field.Message(); md == nil || isTime(md) || t.field.IsList() && !t.element {
			s.blame(t.path, nil, allowed(t.field, t.element), false)
			md = nil
		}
	}
	seen := map[string]bool{} // by field: it has two names
	s.at++
	for first := true; ; first = false {
		if s.space(); s.peek() == '}' && first {
			s.at++
			return nil
		}
		if s.peek() != '"' {
			return s.syntax("a field's name in quotes")
		}
		name, e := s.text()
		if e != nil {
			return e
		}
		if s.space(); s.peek() != ':' {
			return s.syntax("a colon")
		}
		s.at++
		if e := s.value(s.member(md, t.path, name, seen)); e != nil {
			return e
		}
		switch s.space(); s.peek() {
		case ',':
			s.at++
		case '}':
			s.at++
			return nil
		default:
			return s.syntax("a comma or the object's end")
		}
	}
}

// member returns what the value of a field should be, and finds fault with its name.
func (s *scanner) member(md protoreflect.MessageDescriptor, parent, name string, seen map[string]bool) target {
	if md == nil {
		return target{} // inside of what is at fault already
	}
	path := shownName(name)
	if parent != "" {
		path = parent + "." + path
	}
	f := md.Fields().ByTextName(name)
	if f == nil {
		f = md.Fields().ByJSONName(name)
	}
	if f == nil {
		s.fail(apierror.Field(path, nil, "a field of "+string(md.Name())+", which has "+fieldNames(md), apierror.ReasonUnknownField))
		return target{}
	}
	if seen[string(f.Name())] {
		s.fail(apierror.Field(path, nil, "there once only", apierror.ReasonDuplicateField))
	}
	seen[string(f.Name())] = true
	return target{field: f, path: path}
}

func (s *scanner) array(t target) *apierror.Error {
	inner := target{}
	switch {
	case t.field == nil:
	case t.field.IsList() && !t.element:
		inner = target{field: t.field, element: true}
	default:
		s.blame(t.path, nil, allowed(t.field, t.element), false)
	}
	s.at++
	for n := 0; ; n++ {
		if s.space(); s.peek() == ']' && n == 0 {
			s.at++
			return nil
		}
		if inner.field != nil {
			inner.path = t.path + "[" + strconv.Itoa(n) + "]"
		}
		if e := s.value(inner); e != nil {
			return e
		}
		switch s.space(); s.peek() {
		case ',':
			s.at++
		case ']':
			s.at++
			return nil
		default:
			return s.syntax("a comma or the array's end")
		}
	}
}

// text reads a string and returns what it says.
func (s *scanner) text() (string, *apierror.Error) {
	s.at++ // the quote
	var out strings.Builder
	for {
		if s.at >= len(s.b) {
			return "", s.syntax("a closing quote")
		}
		switch c := s.b[s.at]; {
		case c == '"':
			s.at++
			return out.String(), nil
		case c < 0x20:
			return "", s.syntax("a control character escaped as \\u00XX")
		case c == '\\':
			r, e := s.escape()
			if e != nil {
				return "", e
			}
			out.WriteRune(r)
		default:
			r, n := utf8.DecodeRune(s.b[s.at:])
			if r == utf8.RuneError && n == 1 {
				return "", apierror.New(apierror.ReasonInvalidUTF8, fmt.Sprintf("body: must be valid UTF-8, is not at byte %d", s.at))
			}
			out.WriteRune(r)
			s.at += n
		}
	}
}

func (s *scanner) escape() (rune, *apierror.Error) {
	if s.at+1 < len(s.b) {
		if i := strings.IndexByte(`"\/bfnrt`, s.b[s.at+1]); i >= 0 {
			s.at += 2
			return rune("\"\\/\b\f\n\r\t"[i]), nil
		}
	}
	r, ok := s.hex(s.at)
	if !ok {
		return 0, s.syntax("an escape such as \\n or \\u00e9")
	}
	if r < 0xD800 || r > 0xDFFF {
		s.at += 6
		return r, nil
	}
	low, ok := s.hex(s.at + 6)
	if r > 0xDBFF || !ok || low < 0xDC00 || low > 0xDFFF {
		return 0, s.syntax("a whole surrogate pair, not half of one")
	}
	s.at += 12
	return (r-0xD800)<<10 + (low - 0xDC00) + 0x10000, nil
}

// hex reads \uXXXX.
func (s *scanner) hex(at int) (rune, bool) {
	if at+6 > len(s.b) || s.b[at] != '\\' || s.b[at+1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s.b[at+2:at+6]), 16, 16)
	return rune(n), err == nil
}

// word reads a number, true, false or null.
func (s *scanner) word() *apierror.Error {
	from := s.at
	for s.at < len(s.b) && (s.b[s.at] >= 'a' && s.b[s.at] <= 'z' || s.b[s.at] >= '0' && s.b[s.at] <= '9' || strings.IndexByte("+-.E", s.b[s.at]) >= 0) {
		s.at++
	}
	switch w := string(s.b[from:s.at]); {
	case w == "true", w == "false", w == "null", isNumber(w):
		return nil
	}
	s.at = from
	return s.syntax("a value")
}

// isNumber holds a number to JSON's grammar, which is narrower than Go's.
func isNumber(w string) bool {
	w = strings.TrimPrefix(w, "-")
	digits := func() int {
		n := 0
		for n < len(w) && w[n] >= '0' && w[n] <= '9' {
			n++
		}
		w = w[n:]
		return n
	}
	zero := strings.HasPrefix(w, "0")
	if n := digits(); n == 0 || zero && n > 1 {
		return false
	}
	if strings.HasPrefix(w, ".") {
		if w = w[1:]; digits() == 0 {
			return false
		}
	}
	if w != "" && (w[0] == 'e' || w[0] == 'E') {
		if w = w[1:]; w != "" && (w[0] == '+' || w[0] == '-') {
			w = w[1:]
		}
		if digits() == 0 {
			return false
		}
	}
	return w == ""
}

// leaf checks a value without parts against its field.
func (s *scanner) leaf(t target, raw []byte) {
	f := t.field
	if f == nil {
		return
	}
	text := string(raw)
	if text == "null" && !t.element {
		return // the same as absent
	}
	if f.IsList() && !t.element || f.Message() != nil && !isTime(f.Message()) || !fits(f, text) {
		s.blame(t.path, raw, allowed(f, t.element), f.Name() == "content")
	}
}

func fits(f protoreflect.FieldDescriptor, raw string) bool {
	quoted := strings.HasPrefix(raw, `"`)
	bare := strings.Trim(raw, `"`)
	whole := func(low, high float64) bool {
		n, err := strconv.ParseFloat(bare, 64)
		return isNumber(bare) && err == nil && n == math.Trunc(n) && n >= low && n <= high
	}
	switch f.Kind() {
	case protoreflect.StringKind:
		return quoted
	case protoreflect.BoolKind:
		return raw == "true" || raw == "false"
	case protoreflect.Int32Kind:
		return whole(math.MinInt32, math.MaxInt32)
	case protoreflect.Uint32Kind:
		return whole(0, math.MaxUint32)
	case protoreflect.MessageKind:
		_, err := time.Parse(time.RFC3339Nano, bare)
		return quoted && err == nil
	}
	return true // protojson knows; explain says that the body does not fit
}

func isTime(md protoreflect.MessageDescriptor) bool {
	return md.FullName() == "google.protobuf.Timestamp"
}

// allowed says what a field takes, to follow "must be".
func allowed(f protoreflect.FieldDescriptor, element bool) string {
	if f.IsList() && !element {
		return "an array"
	}
	switch f.Kind() {
	case protoreflect.StringKind:
		return "text in quotes"
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.Int32Kind:
		return "a whole number from -2,147,483,648 to 2,147,483,647"
	case protoreflect.Uint32Kind:
		return "a whole number from 0 to 4,294,967,295"
	case protoreflect.MessageKind:
		if isTime(f.Message()) {
			return "a time of RFC 3339, such as 2026-01-31T15:04:05.678Z"
		}
		return "an object, a " + string(f.Message().Name())
	}
	return "a " + f.Kind().String()
}

func fieldNames(md protoreflect.MessageDescriptor) string {
	names := make([]string, md.Fields().Len())
	for i := range names {
		names[i] = string(md.Fields().Get(i).Name())
	}
	return strings.Join(names, ", ")
}

// shownName is a field's name as a client wrote it, made short and harmless.
func shownName(name string) string {
	const most = 64
	if utf8.RuneCountInString(name) > most {
		name = string([]rune(name)[:most]) + "…"
	}
	if q := strconv.Quote(name); q[1:len(q)-1] != name || name == "" {
		return q
	}
	return name
}

func (s *scanner) blame(path string, raw []byte, want string, hide bool) {
	if path == "" {
		path = "body"
	}
	var seen any
	if raw != nil && !hide {
		seen = string(raw)
		if text, err := strconv.Unquote(string(raw)); err == nil {
			seen = text
		}
	}
	s.fail(apierror.Field(path, seen, want, apierror.ReasonJSONInvalid))
}

func (s *scanner) fail(e *apierror.Error) {
	if s.fault == nil {
		s.fault = e
	}
}
