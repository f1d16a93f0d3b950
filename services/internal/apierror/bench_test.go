package apierror

import (
	"testing"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
)

func BenchmarkValidate(b *testing.B) {
	m := &apiv1.SendMessageRequest{SenderId: "alice", ReceiverId: "bob", Content: "Hello Bob! Let's discuss the project deadline.", MessageType: "text"}
	b.ReportAllocs()
	for b.Loop() {
		if err := Validate(m); err != nil {
			b.Fatal(err)
		}
	}
}
