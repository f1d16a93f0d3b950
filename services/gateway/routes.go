package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
)

// route is one HTTP rule of the protos.
type route struct {
	verb     string
	path     string   // as in the proto: /api/v1/alerts/{alert_id}
	segments []string // of path; one in braces is a variable
	method   protoreflect.MethodDescriptor
}

func (rt *route) rpc() string {
	return "/" + string(rt.method.Parent().FullName()) + "/" + string(rt.method.Name())
}

// batch says whether the request is a list of others.
func (rt *route) batch() bool { return strings.HasSuffix(rt.path, ":batch") }

// routes returns what the protos serve over HTTP; paths without variables come first, as they win.
func routes() ([]*route, error) {
	var all []*route
	for _, file := range []protoreflect.FileDescriptor{
		apiv1.File_earshot_api_v1_message_service_proto,
		apiv1.File_earshot_api_v1_alert_service_proto,
		apiv1.File_earshot_api_v1_trend_service_proto,
		apiv1.File_earshot_api_v1_conversation_service_proto,
		apiv1.File_earshot_api_v1_user_service_proto,
	} {
		for s := range file.Services().Len() {
			methods := file.Services().Get(s).Methods()
			for m := range methods.Len() {
				method := methods.Get(m)
				rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
				if rule == nil {
					continue // gRPC only
				}
				for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
					verb, path := binding(r)
					if verb == "" {
						return nil, fmt.Errorf("http rule of %s: a verb that the gateway does not know", method.FullName())
					}
					all = append(all, &route{verb: verb, path: path, segments: strings.Split(path[1:], "/"), method: method})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *route) int { return strings.Count(a.path, "{") - strings.Count(b.path, "{") })
	return all, nil
}

func binding(r *annotations.HttpRule) (verb, path string) {
	switch p := r.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		return http.MethodPost, p.Post
	case *annotations.HttpRule_Put:
		return http.MethodPut, p.Put
	case *annotations.HttpRule_Patch:
		return http.MethodPatch, p.Patch
	case *annotations.HttpRule_Delete:
		return http.MethodDelete, p.Delete
	}
	return "", ""
}

// variable returns the field that a segment of a pattern stands for.
func variable(segment string) (field string, ok bool) {
	if !strings.HasPrefix(segment, "{") {
		return "", false
	}
	return strings.Trim(segment, "{}"), true
}

// match finds the routes of a path, one for each verb, and the path's segments, decoded. The segments of a path are split before they are decoded:
// %2F is no slash.
func match(all []*route, escaped string) (found []*route, segments []string) {
	segments = strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, s := range segments {
		if d, err := url.PathUnescape(s); err == nil {
			segments[i] = d
		}
	}
	for _, r := range all {
		if r.matches(segments) && !slices.ContainsFunc(found, func(f *route) bool { return f.verb == r.verb }) {
			found = append(found, r)
		}
	}
	return found, segments
}

func (rt *route) matches(segments []string) bool {
	if len(rt.segments) != len(segments) {
		return false
	}
	for i, s := range rt.segments {
		if _, ok := variable(s); !ok && s != segments[i] {
			return false
		} else if ok && segments[i] == "" {
			return false
		}
	}
	return true
}

// checkPath refuses what no id can be. The protos of requests that only look something up leave that open.
func (rt *route) checkPath(segments []string) error {
	for i, s := range rt.segments {
		field, ok := variable(s)
		if !ok {
			continue
		}
		id := segments[i]
		switch {
		case !utf8.ValidString(id):
			return apierror.Field(field, id, "valid UTF-8", apierror.ReasonInvalidUTF8)
		case !idPattern.MatchString(id) || utf8.RuneCountInString(id) > maxID || id == "." || id == "..":
			return apierror.Field(field, id, "1 to 128 Unicode letters, digits and ._:@+~-, not . or ..", apierror.ReasonFieldInvalid)
		}
	}
	return nil
}

const maxID = 128

var idPattern = regexp.MustCompile(`^[\p{L}\p{Nd}._:@+~-]+$`)
