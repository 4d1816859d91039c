# The daemon in an image of its own. Build: docker build -t bulkhead .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ENV CARGO_TARGET_DIR=/build
RUN cargo build --locked --release --bin bulkhead

FROM python:3.12-slim-bookworm AS onnxruntime
COPY scripts/get-onnxruntime.sh /
RUN BULKHEAD_CACHE=/cache /get-onnxruntime.sh

FROM debian:bookworm-slim
# OpenSSL and the authorities that it trusts, for Kafka and what steps talk to.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --home-dir /var/lib/bulkhead --create-home bulkhead
COPY --from=build /build/release/bulkhead /usr/local/bin/bulkhead
COPY --from=onnxruntime /cache/onnxruntime /usr/local/lib/onnxruntime
COPY config /etc/bulkhead
ENV ORT_DYLIB_PATH=/usr/local/lib/onnxruntime/libonnxruntime.so
USER bulkhead
VOLUME /var/lib/bulkhead
EXPOSE 8080 9090
HEALTHCHECK --interval=5s --timeout=6s --start-period=20s CMD ["bulkhead", "health", "--admin", "127.0.0.1:9090"]
# exec form: the daemon is process 1 and gets the SIGTERM that makes it drain.
ENTRYPOINT ["bulkhead"]
CMD ["run", "--config", "/etc/bulkhead", "--data", "/var/lib/bulkhead", "--listen", "0.0.0.0:8080", "--admin", "0.0.0.0:9090"]
