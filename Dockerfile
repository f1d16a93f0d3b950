# The image of every service; docker-compose.yml chooses by sub-command.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY gen gen
COPY services services
ARG VERSION=unknown
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.release=$VERSION" -o /out/earshot ./services/earshot

# glibc, which the Kafka client needs; no shell, no package manager, uid 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/earshot /usr/local/bin/earshot
EXPOSE 8080 50051 9464
HEALTHCHECK --interval=10s --timeout=5s --retries=6 --start-period=60s --start-interval=1s \
    CMD ["/usr/local/bin/earshot", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/earshot"]
