// Package gen gives the binary the two files that buf writes beside the Go code. This file is the
// only one in gen/ written by hand; `make gen` replaces all others.
package gen

import _ "embed"

// OpenAPI is the OpenAPI v2 document (JSON) of the REST API. Do not modify it.
//
//go:embed openapi/earshot.swagger.json
var OpenAPI []byte

// Descriptors is a serialized google.protobuf.FileDescriptorSet with every proto of the project
// and all their imports, without source positions. Do not modify it.
//
//go:embed descriptors.binpb
var Descriptors []byte
