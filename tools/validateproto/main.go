// Command validateproto prints buf/validate/validate.proto to standard output.
//
// The file itself is in no package that a Go, npm or Maven client can fetch, but the generated Go
// package carries its descriptor, and a descriptor says everything except the comments.
// third_party/proto/README.md says when to run it.
package main

import (
	"fmt"
	"io"
	"os"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/jhump/protoreflect/desc"
	"github.com/jhump/protoreflect/desc/protoprint"
)

// header replaces the licence notice that the descriptor has lost with the other comments.
const header = `// Copyright 2023-2026 Buf Technologies, Inc.
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//      http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

// Printed from the descriptor by tools/validateproto; the comments of the original are not in it.

`

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "validateproto:", err)
		os.Exit(1)
	}
}

func run(w io.Writer) error {
	file, err := desc.WrapFile(validate.File_buf_validate_validate_proto)
	if err != nil {
		return fmt.Errorf("wrap descriptor: %w", err)
	}
	if _, err := io.WriteString(w, header); err != nil {
		return fmt.Errorf("write header: %w", err)
	}
	printer := protoprint.Printer{}
	if err := printer.PrintProtoFile(file, w); err != nil {
		return fmt.Errorf("print descriptor: %w", err)
	}
	return nil
}
