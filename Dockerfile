# The images of one binary, which finds ONNX Runtime at run time:
#   docker build -t clipserve .                          # CPU, x86_64 and aarch64
#   docker build -t clipserve:cuda --target cuda .       # CUDA 13, x86_64; the host brings the driver (580 or later)
#   docker build -t clipserve:debug --target debug .     # CPU, with the lines that RUST_BACKTRACE, gdb and perf read
# Another checkpoint in the box: --build-arg MODEL=path/in/the/checkout. BuildKit builds only the stages that the target needs; the
# classic builder all that stand above it, so name --target cpu there, or CUDA's gigabytes are fetched too. It takes this file as it
# is: nothing here (a syntax line, a mount) is BuildKit's alone. Mirrors of packages come with the base images (deploy/README.md).

# ---- what the build calls: the same script as `make` on a bare machine ----
FROM rust:1.95.0-slim-trixie AS tools
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY scripts/bootstrap.sh scripts/packages.sh scripts/
RUN scripts/bootstrap.sh && rm -rf /var/lib/apt/lists/*

# ---- the binary ----
FROM tools AS build
COPY Cargo.toml Cargo.lock ./
# The dependencies are a layer of their own, built for an empty crate, which stays as long as these two files do.
RUN mkdir src && touch src/lib.rs && echo 'fn main() {}' >src/main.rs \
    && cargo build --release --locked && cargo clean --release --package clipserve && rm -r src
COPY config/default.toml config/
COPY onnx/examples/ onnx/examples/
COPY tests/fixtures/images/photo_640x480.jpg tests/fixtures/images/
COPY build.rs ./
COPY src/ src/
# Two thirds of the program are lines for a debugger. They go into a file that it names, and that a debugger finds beside it.
RUN cargo build --release --locked && mkdir /out \
    && objcopy --only-keep-debug target/release/clipserve /out/clipserve.debug \
    && strip -o /out/clipserve target/release/clipserve \
    && objcopy --add-gnu-debuglink=/out/clipserve.debug /out/clipserve

# ---- the model in the box, as graphs: the service has no place to write them in a read-only container ----
FROM build AS model
ARG MODEL=onnx/emoji-clip
COPY ${MODEL}/ ${MODEL}/
RUN mkdir -p /models && /out/clipserve export "${MODEL}" "/models/$(basename "${MODEL}")" \
    && ln -s "$(basename "${MODEL}")" /models/default

# ---- the libraries, each in a stage of its own: a change of the code does not fetch them again ----
FROM tools AS onnxruntime-cpu
COPY scripts/fetch-onnxruntime.sh scripts/onnxruntime-cpu.txt scripts/
RUN scripts/fetch-onnxruntime.sh /out

# bf16 on CPUs, where there is a build of OpenVINO: an empty folder elsewhere.
FROM tools AS openvino
COPY scripts/fetch-onnxruntime.sh scripts/onnxruntime-openvino.txt scripts/
RUN if [[ $(uname -m) == x86_64 ]]; then scripts/fetch-onnxruntime.sh --openvino /out; else mkdir /out; fi

# ---- what all images share ----
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

# ---- docker build --target cpu ----
FROM runtime AS cpu
COPY --from=onnxruntime-cpu /out/ /opt/clipserve/
COPY --from=openvino /out/ /opt/clipserve/openvino/

# ---- docker build --target debug ----
FROM cpu AS debug
COPY --from=build /out/clipserve.debug /opt/clipserve/

# ---- docker build --target cuda ----
FROM tools AS onnxruntime-cuda
COPY scripts/fetch-onnxruntime.sh scripts/onnxruntime-cuda.txt scripts/
RUN scripts/fetch-onnxruntime.sh --cuda /out

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

# ---- docker build: without a target it is the last stage ----
FROM cpu
