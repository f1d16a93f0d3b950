package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/ident"
)

// serveREST answers a request that matched at least one route, by one of them.
func (g *Gateway) serveREST(w http.ResponseWriter, r *http.Request, found []*route, segments []string) {
	if r.Method == http.MethodHead {
		r.Method = http.MethodGet // net/http leaves the body out
	}
	var rt *route
	for _, f := range found {
		if f.verb == r.Method {
			rt = f
		}
	}
	r.Pattern = rt.path
	g.forgetForgedProxies(r)
	query, err := g.admit(w, r, rt, segments)
	if err != nil {
		g.refuse(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if rt.method.IsStreamingServer() {
		g.serveStream(w, r, rt, query)
		return
	}
	// A service keeps the deadline itself and says what became of the call; ours is a little longer, for one that can not be reached any more.
	ctx, cancel := context.WithTimeout(r.Context(), g.cfg.CallDeadline+time.Second)
	defer cancel()
	g.mux.ServeHTTP(w, r.WithContext(ctx))
}

// admit holds a request to our bounds and rules, reads its body, and returns its query.
func (g *Gateway) admit(w http.ResponseWriter, r *http.Request, rt *route, segments []string) (url.Values, error) {
	if err := rt.checkPath(segments); err != nil {
		return nil, err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, apierror.Field("query", r.URL.RawQuery, "percent-encoded name=value pairs", apierror.ReasonFieldInvalid)
	}
	if err := rt.checkQuery(query); err != nil {
		return nil, err
	}
	if rt.verb != http.MethodGet {
		if err := checkMedia(r.Header); err != nil {
			return nil, err
		}
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, apierror.Field("Content-Encoding", enc, "absent: bodies are not unpacked", apierror.ReasonUnsupportedEncoding)
	}
	key := ""
	if rt.method.Name() == "SendMessage" {
		if key = r.Header.Get("Idempotency-Key"); key != "" {
			if _, err := ident.Parse(key); err != nil {
				return nil, apierror.Field("Idempotency-Key", key, `a message_id, "msg-" and a UUIDv7 in lower case`, apierror.ReasonFieldInvalid)
			}
		}
	}
	most := int64(g.cfg.MaxBody)
	if rt.batch() {
		most = int64(g.cfg.MaxBatchBody)
	}
	raw, err := readBody(w, r, most)
	if err != nil {
		return nil, err
	}
	r.Body = newBody(raw, key)
	return query, nil
}

// checkMedia takes JSON in UTF-8, and requests that do not say: curl users forget.
func checkMedia(h http.Header) error {
	ct := h.Get("Content-Type")
	if ct == "" {
		return nil
	}
	media, params, err := mime.ParseMediaType(ct)
	charset, named := params["charset"]
	if err != nil || media != mediaJSON || named && !strings.EqualFold(charset, "utf-8") {
		return apierror.Field("Content-Type", ct, mediaJSON+" in UTF-8", apierror.ReasonUnsupportedMediaType)
	}
	return nil
}

func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	tooLarge := apierror.New(apierror.ReasonBodyTooLarge, fmt.Sprintf("body: must be at most %d bytes, got more", most))
	if r.ContentLength > most {
		w.Header().Set("Connection", "close") // rather than reading the rest away
		return nil, tooLarge
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	raw, err := readAll(http.MaxBytesReader(w, r.Body, most), r.ContentLength)
	var over *http.MaxBytesError
	switch {
	case err == nil:
		return raw, nil
	case errors.As(err, &over):
		return nil, tooLarge
	case apierror.ReasonOf(err) != "": // it came too slowly
		w.Header().Set("Connection", "close")
		return nil, err
	}
	w.Header().Set("Connection", "close")
	return nil, apierror.New(apierror.ReasonJSONInvalid, "body: must be whole, ended early or is not framed as HTTP asks")
}

// readAll is io.ReadAll, in one step where the size is known.
func readAll(r io.Reader, size int64) ([]byte, error) {
	if size <= 0 {
		b, err := io.ReadAll(r)
		return b, err //nolint:wrapcheck // readBody tells errors apart
	}
	b := make([]byte, size)
	n, err := io.ReadFull(r, b)
	if err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	_, err = io.ReadFull(r, make([]byte, 1)) // meets the end, which frees the connection of the body's deadline
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

var noFilter = utilities.NewDoubleArray(nil)

// checkQuery refuses names that the request has no field for, and values that do not fit. grpc-gateway ignores the first: a misspelt filter would be none.
func (rt *route) checkQuery(query url.Values) error {
	if len(query) == 0 {
		return nil
	}
	in := rt.method.Input()
	seen := map[protoreflect.Name]bool{}
	for name, values := range query {
		f := in.Fields().ByTextName(name)
		if f == nil {
			f = in.Fields().ByJSONName(name)
		}
		if f == nil || rt.verb != http.MethodGet || rt.inPath(string(f.Name())) {
			return apierror.Field(shownName(name), nil, rt.queryNames(), apierror.ReasonUnknownField)
		}
		if seen[f.Name()] || !f.IsList() && len(values) > 1 {
			return apierror.Field(shownName(name), nil, "there once only", apierror.ReasonDuplicateField)
		}
		seen[f.Name()] = true
		for _, v := range values {
			if !utf8.ValidString(v) {
				return apierror.Field(string(f.Name()), v, "valid UTF-8", apierror.ReasonInvalidUTF8)
			}
			if fill(dynamicpb.NewMessage(in), url.Values{name: {v}}) != nil {
				return apierror.Field(string(f.Name()), v, queryWords(f), apierror.ReasonFieldInvalid)
			}
		}
	}
	return nil
}

func fill(m proto.Message, query url.Values) error {
	if err := runtime.PopulateQueryParameters(m, query, noFilter); err != nil {
		return fmt.Errorf("read query: %w", err)
	}
	return nil
}

func (rt *route) inPath(field string) bool {
	return strings.Contains(rt.path, "{"+field+"}")
}

func (rt *route) queryNames() string {
	var names []string
	fields := rt.method.Input().Fields()
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); rt.verb == http.MethodGet && !rt.inPath(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "left out: this path takes no query"
	}
	return "one of " + strings.Join(names, ", ")
}

func queryWords(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		var names []string
		for i := range values.Len() {
			if v := values.Get(i); v.Number() != 0 {
				names = append(names, string(v.Name()))
			}
		}
		return "one of " + strings.Join(names, ", ")
	case protoreflect.DoubleKind:
		return "a number"
	}
	return allowed(f, true)
}
