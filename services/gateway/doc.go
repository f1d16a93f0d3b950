// Package gateway is the way in by HTTP: REST under /api/v1 through grpc-gateway, the live streams as SSE and NDJSON, health, the OpenAPI document
// with a page to read and try it, and the live page at /.
//
//	request -> names, origins -> route -> bounds, strict JSON -> grpc-gateway -> Local or Dial -> ingest, query
//	                                  \-> streams: one frame a line or event ----^
//
// Routes come from the google.api.http rules of the protos, so a new RPC is served without a line here. Whatever is refused, is refused with the same
// google.rpc.Status that gRPC callers see.
//
// It may import gen and internal packages only; it meets the services over gRPC, or in process through Local.
package gateway
