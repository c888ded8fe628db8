# syntax=docker/dockerfile:1
#
# Two images from one binary, which finds ONNX Runtime at run time:
#   docker build -t clipserve .                          # CPU, x86_64 and aarch64
#   docker build -t clipserve:cuda --target cuda .       # CUDA 13, x86_64; the host brings the driver (580 or later)
# Another checkpoint in the box: --build-arg MODEL=path/in/the/checkout. BuildKit builds only the stages that the target needs.

# ---- what the build calls: the same scripts as `make` on a bare machine ----
FROM rust:1.95.0-slim-trixie AS tools
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY scripts/ scripts/
RUN scripts/bootstrap.sh && rm -rf /var/lib/apt/lists/*

# ---- the binary ----
FROM tools AS build
COPY . .
# The caches make a second build quick; the binary is copied out because a cache mount is not part of the layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked && install -D target/release/clipserve /out/clipserve

# ---- the model in the box, as graphs: the service has no place to write them in a read-only container ----
FROM build AS model
ARG MODEL=onnx/emoji-clip
RUN mkdir -p /models && /out/clipserve export "${MODEL}" "/models/$(basename "${MODEL}")" \
    && ln -s "$(basename "${MODEL}")" /models/default

# ---- the libraries, each in a stage of its own: a change of the code does not fetch them again ----
FROM tools AS onnxruntime-cpu
RUN scripts/fetch-onnxruntime.sh /out

# bf16 on CPUs, where there is a build of OpenVINO: an empty folder elsewhere.
FROM tools AS openvino
ARG TARGETARCH
RUN if [[ ${TARGETARCH:-amd64} == amd64 ]]; then scripts/fetch-onnxruntime.sh --openvino /out; else mkdir /out; fi

FROM tools AS onnxruntime-cuda
RUN scripts/fetch-onnxruntime.sh --cuda /out

# ---- what both images share ----
FROM debian:trixie-slim AS runtime
# ONNX Runtime is C++ and needs no more than these. Versions are the release's own: pinned ones would miss its fixes.
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends libstdc++6 libgcc-s1 \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/* \
    && install -d -o 65532 -g 65532 /cache
COPY --from=model /models/ /opt/clipserve/models/
COPY --from=build /out/clipserve /opt/clipserve/clipserve
# The address is set here and not on the command line, so that the server and its health check read the same one.
# Answers go out on all interfaces: inside a container there is no other way in.
ENV CLIPSERVE__MODEL__PATH=/opt/clipserve/models/default \
    CLIPSERVE__SERVER__LISTEN=0.0.0.0:8080 \
    CLIPSERVE__TELEMETRY__LOG_FORMAT=json \
    ORT_DISABLE_TELEMETRY=1
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="clipserve" \
      org.opencontainers.image.description="CLIP embeddings over HTTP, equal to Hugging Face transformers" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Not root, and a number, so that Kubernetes can check runAsNonRoot.
USER 65532:65532
WORKDIR /opt/clipserve
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["/opt/clipserve/clipserve", "healthcheck"]
ENTRYPOINT ["/opt/clipserve/clipserve"]
CMD ["serve"]

# ---- docker build --target cuda ----
FROM runtime AS cuda
# Beside the executable, where clipserve looks; the search path is for CUDA's libraries, which load one another by name.
COPY --from=onnxruntime-cuda /out/ /opt/clipserve/
ENV LD_LIBRARY_PATH=/opt/clipserve \
    CLIPSERVE__ENGINE__PROVIDER=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Batch sizes and queues for a GPU; the provider is in the environment as well, so that another command line keeps it.
COPY config/cuda.toml /opt/clipserve/cuda.toml
CMD ["serve", "--config", "/opt/clipserve/cuda.toml"]

# ---- docker build ----
FROM runtime AS cpu
COPY --from=onnxruntime-cpu /out/ /opt/clipserve/
COPY --from=openvino /out/ /opt/clipserve/openvino/
