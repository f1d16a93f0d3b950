#!/bin/sh
# Renews third_party/proto from the packages named in its README. Needs npm, tar and Go.
set -eu
cd "$(dirname "$0")/.."

GOOGLE_PROTO_FILES=5.0.3
OUT=third_party/proto

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

npm pack --silent --pack-destination "$tmp" "google-proto-files@$GOOGLE_PROTO_FILES" >/dev/null
tar -xzf "$tmp/google-proto-files-$GOOGLE_PROTO_FILES.tgz" -C "$tmp"
mkdir -p "$OUT/google/api" "$OUT/google/rpc" "$OUT/protoc-gen-openapiv2/options" "$OUT/buf/validate"
for f in annotations http field_behavior httpbody; do
	cp "$tmp/package/google/api/$f.proto" "$OUT/google/api/"
done
for f in status error_details code; do
	cp "$tmp/package/google/rpc/$f.proto" "$OUT/google/rpc/"
done

# The version is the one that go.mod names, so that options and gateway always agree.
gateway=$(go list -m -f '{{.Dir}}' github.com/grpc-ecosystem/grpc-gateway/v2)
cp "$gateway"/protoc-gen-openapiv2/options/*.proto "$OUT/protoc-gen-openapiv2/options/"
cp "$gateway/LICENSE" "$OUT/protoc-gen-openapiv2/LICENSE"

go run -C tools/validateproto . >"$tmp/validate.proto"
cp "$tmp/validate.proto" "$OUT/buf/validate/validate.proto"
chmod -R u+w "$OUT"
find "$OUT" -type f -exec chmod 644 {} +
