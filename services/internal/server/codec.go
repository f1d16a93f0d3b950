package server

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strconv"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress; what they send is bounded after unpacking
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/earshot/earshot/services/internal/apierror"
)

// codec is grpc-go's own, except for requests that can not be read: grpc-go would answer these with INTERNAL before any interceptor runs. It hands
// the interceptors an empty message that carries the fault instead, and they answer INVALID_ARGUMENT.
//
// The fault travels in the message's unknown fields, behind a mark that no client can guess: nothing to look up, nothing to clean up.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(grpcproto.Name)} }

// faultMark begins the unknown fields of a message that could not be read: tag and length of a bytes field, then 16 random bytes.
var faultMark = func() []byte {
	b := protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.BytesType)
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // never fails
	return append(b, secret[:]...)
}()

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return err
	}
	fault := append([]byte(nil), faultMark...)
	if isInvalidUTF8(err) {
		path, seen := badText(m.ProtoReflect().Descriptor(), data.Materialize(), 0)
		fault = append(fault, 'u')
		fault = append(fault, path...)
		fault = append(fault, 0)
		fault = append(fault, seen...)
	} else {
		fault = append(fault, 'p')
		fault = strconv.AppendInt(fault, int64(data.Len()), 10)
	}
	proto.Reset(m)
	m.ProtoReflect().SetUnknown(fault)
	return nil
}

func isInvalidUTF8(err error) bool {
	var bad interface{ InvalidUTF8() bool }
	return errors.As(err, &bad) && bad.InvalidUTF8() || bytes.Contains([]byte(err.Error()), []byte("invalid UTF-8"))
}

// unreadable returns the error that the codec left in m, or nil.
func unreadable(m proto.Message) *apierror.Error {
	r := m.ProtoReflect()
	raw := r.GetUnknown()
	if len(raw) <= len(faultMark) || !bytes.HasPrefix(raw, faultMark) {
		return nil
	}
	kind, rest := raw[len(faultMark)], raw[len(faultMark)+1:]
	if kind == 'p' {
		return apierror.New(apierror.ReasonBadProtobuf, "request: must be "+string(r.Descriptor().FullName())+" in protobuf, got "+string(rest)+" bytes that are not")
	}
	path, seen, _ := bytes.Cut(rest, []byte{0})
	var shown any
	if len(seen) > 0 {
		shown = string(seen)
	}
	return apierror.Field(string(path), shown, "valid UTF-8", apierror.ReasonInvalidUTF8)
}

// badText finds the first text in b, an encoded md, that is not valid UTF-8, and returns its path and, unless it is content, its bytes.
func badText(md protoreflect.MessageDescriptor, b []byte, depth int) (path string, seen []byte) {
	index := map[protowire.Number]int{}
	for len(b) > 0 && depth < 16 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			break
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			break
		}
		value := b[:size]
		b = b[size:]
		fd := md.Fields().ByNumber(num)
		if fd == nil || typ != protowire.BytesType {
			continue
		}
		value, _ = protowire.ConsumeBytes(value)
		name := string(fd.Name())
		if fd.IsList() {
			name += "[" + strconv.Itoa(index[num]) + "]"
			index[num]++
		}
		switch fd.Kind() {
		case protoreflect.StringKind:
			if utf8.Valid(value) {
				continue
			}
			if fd.Name() == "content" {
				return name, nil // never repeat what users write
			}
			return name, value[:min(len(value), 512)]
		case protoreflect.MessageKind:
			if inner, seen := badText(fd.Message(), value, depth+1); inner != "request" {
				return name + "." + inner, seen
			}
		}
	}
	return "request", nil
}
