package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
)

const (
	mediaJSON   = "application/json"
	mediaNDJSON = "application/x-ndjson"
	mediaSSE    = "text/event-stream"
)

var (
	// Fields without a value are there all the same, as "", 0, [] or null: people look for them.
	toJSON   = protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}
	fromJSON = protojson.UnmarshalOptions{}
)

// encode appends m as one line of JSON to b. The bytes depend on m alone: protojson adds spaces at random, so that nobody relies on them.
func encode(b []byte, m proto.Message) ([]byte, error) {
	loose, err := toJSON.Marshal(m)
	if err != nil {
		return b, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	out := bytes.NewBuffer(b)
	if err := json.Compact(out, loose); err != nil {
		return b, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return out.Bytes(), nil
}

// body is a request's body, read and bounded before grpc-gateway sees the request. What is wrong with it as JSON is kept in fault, since the generated
// code makes a plain text of every error on its way.
type body struct {
	*bytes.Reader
	raw   []byte
	key   string // Idempotency-Key
	fault error
}

func newBody(raw []byte, key string) *body {
	return &body{Reader: bytes.NewReader(raw), raw: raw, key: key}
}

func (b *body) Close() error { return nil }

// decode reads the body into m: io.EOF for an empty one, an *apierror.Error for a bad one.
func (b *body) decode(m proto.Message) error {
	if len(b.raw) == 0 {
		b.useKey(m)
		return io.EOF
	}
	if err := fromJSON.Unmarshal(b.raw, m); err != nil {
		b.fault = explain(b.raw, m.ProtoReflect().Descriptor())
		return b.fault
	}
	b.useKey(m)
	return nil
}

// useKey makes the Idempotency-Key the message's id, which is what makes retries harmless here. The body's own id wins.
func (b *body) useKey(m proto.Message) {
	if req, ok := m.(*apiv1.SendMessageRequest); ok && req.GetMessageId() == "" {
		req.MessageId = b.key
	}
}

// jsonMarshaler is how grpc-gateway reads and writes JSON.
type jsonMarshaler struct{}

var errNotProto = errors.New("only protobuf messages are sent and received")

func (jsonMarshaler) ContentType(any) string { return mediaJSON }

func (jsonMarshaler) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%w, got %T", errNotProto, v)
	}
	return encode(nil, m)
}

func (jsonMarshaler) Unmarshal(data []byte, v any) error {
	return jsonMarshaler{}.NewDecoder(newBody(data, "")).Decode(v)
}

func (jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		m, ok := v.(proto.Message)
		if !ok {
			return fmt.Errorf("%w, got %T", errNotProto, v)
		}
		if b, ok := r.(*body); ok {
			return b.decode(m)
		}
		return apierror.New(apierror.ReasonInternal, "the body was not read")
	})
}

func (j jsonMarshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		b, err := j.Marshal(v)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
}
