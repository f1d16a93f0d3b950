package apierror

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// contentField is never repeated in an error: errors may be logged, and what users write must not be.
const contentField = "content"

// patternWords says in plain words what the API's patterns allow; a test holds it complete.
var patternWords = map[string]string{
	`^[\p{L}\p{Nd}._:@+~-]+$`: "Unicode letters, digits and ._:@+~-",
	`^msg-[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`: `"msg-" and a UUIDv7 in lower case`,
}

// Validate checks m against the rules in its proto and returns an *Error that names every field at fault. An error of another kind is a fault of
// the rules, not of the caller; the edge logs it. Validate is safe for concurrent use.
func Validate(m proto.Message) error {
	err := protovalidate.Validate(m)
	if err == nil {
		return nil
	}
	failed, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		return fmt.Errorf("validate request: %w", err)
	}
	seen := make(map[string]bool, len(failed.Violations))
	violations := make([]Violation, 0, len(failed.Violations))
	for _, v := range failed.Violations {
		path := protovalidate.FieldPathString(v.Proto.GetField())
		if seen[path] {
			continue // the first rule broken says all the rules
		}
		seen[path] = true
		violations = append(violations, violation(m.ProtoReflect().Descriptor(), path, v))
	}
	return Invalid(violations...)
}

func violation(m protoreflect.MessageDescriptor, path string, v *protovalidate.Violation) Violation {
	field, rules := resolve(m, v.Proto.GetField().GetElements())
	out := Violation{Field: path, Seen: seenValue(field, v), Allowed: words(field, rules, v), Reason: ReasonFieldInvalid}
	switch id := v.Proto.GetRuleId(); {
	case empty(v.FieldValue):
		out.Reason = ReasonFieldRequired
	case strings.HasSuffix(id, ".max_len") || strings.HasSuffix(id, ".max_bytes"):
		out.Reason = ReasonFieldTooLong
	}
	return out
}

// resolve walks a path from message m to its field and that field's rules, or an element's rules when the path ends in an index: protovalidate
// names no field for an element.
func resolve(m protoreflect.MessageDescriptor, path []*validate.FieldPathElement) (protoreflect.FieldDescriptor, *validate.FieldRules) {
	var field protoreflect.FieldDescriptor
	for _, el := range path {
		if m == nil {
			return nil, nil
		}
		if field = m.Fields().ByNumber(protoreflect.FieldNumber(el.GetFieldNumber())); field == nil {
			return nil, nil
		}
		m = field.Message()
	}
	if field == nil {
		return nil, nil
	}
	rules, err := protovalidate.ResolveFieldRules(field)
	if err != nil {
		return field, nil
	}
	if field.IsList() && path[len(path)-1].HasSubscript() {
		return field, rules.GetRepeated().GetItems()
	}
	return field, rules
}

func empty(v protoreflect.Value) bool {
	if !v.IsValid() {
		return true
	}
	switch x := v.Interface().(type) {
	case string:
		return x == ""
	case protoreflect.List:
		return x.Len() == 0
	}
	return false
}

func seenValue(field protoreflect.FieldDescriptor, v *protovalidate.Violation) any {
	if field == nil || !v.FieldValue.IsValid() {
		return literal("nothing")
	}
	switch x := v.FieldValue.Interface().(type) {
	case string:
		if field.Name() != contentField {
			return x
		}
		if strings.HasSuffix(v.Proto.GetRuleId(), ".not_contains") {
			return literal("one that has it")
		}
		return utf8.RuneCountInString(x)
	case protoreflect.List:
		return x.Len()
	case protoreflect.EnumNumber:
		return int32(x)
	case protoreflect.Message:
		return nil
	default:
		return x
	}
}

// words returns what rules allow, to follow "must be". Rules it has no words for speak in protovalidate's own.
func words(field protoreflect.FieldDescriptor, rules *validate.FieldRules, v *protovalidate.Violation) string {
	switch rules.WhichType() {
	case validate.FieldRules_String__case:
		return stringWords(rules.GetString(), v)
	case validate.FieldRules_Repeated_case:
		return span(rules.GetRepeated().HasMinItems(), rules.GetRepeated().GetMinItems(), rules.GetRepeated().HasMaxItems(), rules.GetRepeated().GetMaxItems()) + " items"
	case validate.FieldRules_Int32_case:
		r := rules.GetInt32()
		return span(r.HasGte(), r.GetGte(), r.HasLte(), r.GetLte())
	case validate.FieldRules_Enum_case:
		return enumWords(field)
	}
	return strings.TrimPrefix(strings.TrimPrefix(v.Proto.GetMessage(), "value "), "must be ")
}

func stringWords(r *validate.StringRules, v *protovalidate.Violation) string {
	if len(r.GetIn()) > 0 {
		return "one of " + strings.Join(r.GetIn(), ", ")
	}
	what, named := patternWords[r.GetPattern()]
	if !r.HasMinLen() && !r.HasMaxLen() && named {
		return what
	}
	if !named {
		what = "characters"
	}
	text := span(r.HasMinLen(), r.GetMinLen(), r.HasMaxLen(), r.GetMaxLen()) + " " + what
	if len(r.GetNotIn()) > 0 {
		text += ", not " + strings.Join(r.GetNotIn(), " or ")
	}
	if r.HasNotContains() && strings.HasSuffix(v.Proto.GetRuleId(), ".not_contains") {
		text += " without NUL"
	}
	return text
}

func enumWords(d protoreflect.FieldDescriptor) string {
	values := d.Enum().Values()
	names := make([]string, 0, values.Len())
	for i := range values.Len() {
		if e := values.Get(i); e.Number() != 0 {
			names = append(names, string(e.Name()))
		}
	}
	return "one of " + strings.Join(names, ", ")
}

// span says "1 to 128", "at least 1" or "at most 128".
func span[T int32 | uint64](hasLow bool, low T, hasHigh bool, high T) string {
	switch {
	case hasLow && hasHigh:
		return group(int64(low)) + " to " + group(int64(high)) //nolint:gosec // limits of the protos, all small
	case hasLow:
		return "at least " + group(int64(low)) //nolint:gosec // as above
	default:
		return "at most " + group(int64(high)) //nolint:gosec // as above
	}
}
