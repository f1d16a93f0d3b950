package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/server"
)

// Names that every stream's request or frame has.
const (
	fieldToken     = "resume_token"
	fieldSince     = "since"
	fieldHeartbeat = "heartbeat"
)

// serveStream answers with one frame a line or event until somebody ends it. grpc-gateway's own way wraps each frame in "result", knows no event ids,
// and keeps no deadline.
func (g *Gateway) serveStream(w http.ResponseWriter, r *http.Request, rt *route, query url.Values) {
	request, frame, err := messagesOf(rt)
	if err == nil {
		err = fillStream(request, query, r.Header.Get("Last-Event-ID"))
	}
	if err != nil {
		g.refuse(w, r, err)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if draining := server.Draining(ctx); draining != nil {
		go func() {
			select {
			case <-draining:
				cancel(errStopping)
			case <-ctx.Done():
			}
		}()
	}
	open, err := g.open(ctx, rt, request)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	out := frameWriter{w: w, r: r, sse: wantsEvents(r.Header)}
	next := func() (proto.Message, error) {
		m := frame.New().Interface()
		return m, open.RecvMsg(m)
	}
	m, err := next()
	if err != nil { // nothing is written yet: an answer like any other
		g.fail(w, r, stopped(ctx, err))
		return
	}
	out.begin()
	count, ended := g.metrics.streaming(r, out.format())
	for err == nil {
		if err = out.frame(m); err != nil {
			break // it left, or does not read
		}
		count()
		m, err = next()
	}
	reason := "closed"
	if !out.broken && r.Context().Err() == nil {
		err = g.known(r, stopped(ctx, err))
		reason = string(apierror.ReasonOf(err))
		out.end(err)
	}
	cancel(nil)
	for err = nil; err == nil; { // so that the service's side has ended when we return
		_, err = next()
	}
	ended(reason)
}

var errStopping = errors.New("the server is stopping")

// stopped returns why the stream ended: our own stop, if that is what ended it.
func stopped(ctx context.Context, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errStopping):
		return apierror.Unavailable(apierror.ReasonUnavailable, "the server is stopping; resume elsewhere", time.Second)
	case errors.Is(err, io.EOF):
		return apierror.Unavailable(apierror.ReasonUnavailable, "the stream ended; resume it", time.Second)
	}
	return err
}

// messagesOf returns a new request of a streaming route and the type of its frames.
func messagesOf(rt *route) (proto.Message, protoreflect.MessageType, error) {
	in, err := protoregistry.GlobalTypes.FindMessageByName(rt.method.Input().FullName())
	if err != nil {
		return nil, nil, err
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(rt.method.Output().FullName())
	if err != nil {
		return nil, nil, err
	}
	return in.New().Interface(), out, nil
}

// fillStream fills the request from the query. The id that a browser sends when it comes back wins over where the page first began.
func fillStream(request proto.Message, query url.Values, lastEventID string) error {
	if err := fill(request, query); err != nil {
		return err
	}
	if lastEventID == "" {
		return nil
	}
	m := request.ProtoReflect()
	fields := m.Descriptor().Fields()
	m.Clear(fields.ByName(fieldSince))
	m.Set(fields.ByName(fieldToken), protoreflect.ValueOfString(strings.ToValidUTF8(lastEventID, "?")))
	return nil
}

func (g *Gateway) open(ctx context.Context, rt *route, request proto.Message) (grpc.ClientStream, error) {
	stream, err := g.query.NewStream(ctx, &grpc.StreamDesc{StreamName: string(rt.method.Name()), ServerStreams: true}, rt.rpc())
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) { // io.EOF: RecvMsg says why
		return nil, err
	}
	return stream, stream.CloseSend()
}

func wantsEvents(h http.Header) bool {
	for _, accept := range h.Values("Accept") {
		if strings.Contains(strings.ToLower(accept), mediaSSE) {
			return true
		}
	}
	return false
}

// frameWriter writes frames as events (SSE) or lines (NDJSON), each within the server's bound on the time of one frame.
type frameWriter struct {
	w      http.ResponseWriter
	r      *http.Request
	sse    bool
	broken bool   // nothing more can be written
	token  string // of the last frame
	buf    []byte
}

func (f *frameWriter) format() string {
	if f.sse {
		return "sse"
	}
	return "ndjson"
}

// begin sends the headers.
func (f *frameWriter) begin() {
	h := f.w.Header()
	h.Set("Content-Type", mediaNDJSON)
	if f.sse {
		h.Set("Content-Type", mediaSSE)
	}
	h.Set("X-Accel-Buffering", "no") // nginx would collect frames
	h.Add("Vary", "Accept")
	f.w.WriteHeader(http.StatusOK)
	if f.sse {
		f.buf = append(f.buf, "retry: 1000\n"...) // part of the first event
	}
}

// frame writes {"alert":{…}}. Where to go on from is the event's id; a line carries it beside the object.
func (f *frameWriter) frame(m proto.Message) error {
	name, value, token := parts(m)
	f.token = token
	if value == nil {
		return nil // a kind of frame that this gateway is too old for
	}
	b := f.buf
	if f.sse {
		if name == fieldHeartbeat {
			b = append(b, "event: heartbeat\n"...)
		}
		b = append(b, "id: "...)
		b = append(b, token...)
		b = append(b, "\ndata: "...)
	}
	b = append(append(append(b, `{"`...), name...), `":`...)
	b, err := encode(b, value)
	if err != nil {
		f.broken = true
		return err
	}
	if !f.sse && name != fieldHeartbeat { // a heartbeat has it inside
		b = append(append(append(b, `,"resume_token":"`...), token...), '"')
	}
	return f.write(append(b, '}'))
}

// end writes the last frame: why there are no more, and where to go on from.
func (f *frameWriter) end(err error) {
	b := f.buf
	if f.sse {
		b = append(b, "event: error\ndata: "...)
	}
	b, encodeErr := encode(append(b, `{"error":`...), status.Convert(err).Proto())
	if encodeErr != nil {
		return
	}
	if f.token != "" {
		b = append(append(append(b, `,"resume_token":"`...), f.token...), '"')
	}
	_ = f.write(append(b, '}')) // it left
}

func (f *frameWriter) write(b []byte) error {
	b = append(b, '\n')
	if f.sse {
		b = append(b, '\n')
	}
	f.buf = b[:0]
	err := server.StreamFrame(f.w, f.r)
	if err == nil {
		_, err = f.w.Write(b)
	}
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	f.broken = err != nil
	return err
}

// parts returns what a frame holds, by name, and its resume token, which is of base64url and so needs no escaping anywhere.
func parts(frame proto.Message) (name string, value proto.Message, token string) {
	m := frame.ProtoReflect()
	d := m.Descriptor()
	token = m.Get(d.Fields().ByName(fieldToken)).String()
	if strings.IndexFunc(token, notToken) >= 0 {
		token = ""
	}
	f := m.WhichOneof(d.Oneofs().Get(0))
	if f == nil {
		return "", nil, token
	}
	return string(f.Name()), m.Get(f).Message().Interface(), token
}

func notToken(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}
