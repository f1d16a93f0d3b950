package processor

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/earshot/earshot/services/internal/kafka"
	"go.opentelemetry.io/otel/trace"
)

// A batch of sender-events holds messages of many traces, and a record has room for one traceparent. So a batch carries, in a header of its own, the
// place and the span context of each sampled message: an alert then belongs to the trace of the very message that triggered it. Without sampling the
// header is absent and costs nothing.
const (
	tracesHeader = "earshot-traces"
	tracesLimit  = 64         // of one batch: beyond that, traces show enough
	traceSize    = 2 + 16 + 8 // index in the batch, trace id, span id
)

// sampled returns the span context that a record carries when it is sampled. It reads the W3C header itself, since nearly all messages are not.
func sampled(r *kafka.Record) (trace.SpanContext, bool) {
	for i := range r.Headers {
		h := &r.Headers[i]
		// 00-<32 hex>-<16 hex>-<2 hex flags>, see W3C Trace Context level 1
		if h.Key != "traceparent" || len(h.Value) != 55 || h.Value[0] != '0' || h.Value[1] != '0' {
			continue
		}
		var flags [1]byte
		var c trace.SpanContextConfig
		if _, err := hex.Decode(flags[:], h.Value[53:]); err != nil || flags[0]&1 == 0 {
			return trace.SpanContext{}, false
		}
		if _, err := hex.Decode(c.TraceID[:], h.Value[3:35]); err != nil {
			return trace.SpanContext{}, false
		}
		if _, err := hex.Decode(c.SpanID[:], h.Value[36:52]); err != nil {
			return trace.SpanContext{}, false
		}
		c.TraceFlags, c.Remote = trace.FlagsSampled, true
		sc := trace.NewSpanContext(c)
		return sc, sc.IsValid()
	}
	return trace.SpanContext{}, false
}

// appendTrace notes that the event at index of a batch belongs to sc.
func appendTrace(b []byte, index int, sc trace.SpanContext) []byte {
	if len(b) >= tracesLimit*traceSize {
		return b
	}
	t, s := sc.TraceID(), sc.SpanID()
	b = binary.BigEndian.AppendUint16(b, uint16(index)) //nolint:gosec // Config.BatchEvents is at most 2,000
	b = append(b, t[:]...)
	return append(b, s[:]...)
}

// traces walks over what appendTrace wrote, in step with the events.
type traces []byte

func tracesOf(r *kafka.Record) traces {
	for i := range r.Headers {
		if r.Headers[i].Key == tracesHeader {
			return r.Headers[i].Value
		}
	}
	return nil
}

// at returns the trace of the event at index, which must not go back; without one, an invalid context.
func (t *traces) at(index int) trace.SpanContext {
	for len(*t) >= traceSize {
		b := *t
		i := int(binary.BigEndian.Uint16(b))
		if i > index {
			break
		}
		*t = b[traceSize:]
		if i == index {
			c := trace.SpanContextConfig{TraceFlags: trace.FlagsSampled, Remote: true}
			copy(c.TraceID[:], b[2:18])
			copy(c.SpanID[:], b[18:26])
			return trace.NewSpanContext(c)
		}
	}
	return trace.SpanContext{}
}
