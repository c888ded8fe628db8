# Every command of this repository; `make` alone lists them. Variables are given on the line: make run LISTEN=0.0.0.0:9000

# What `make run` serves: a model directory in any layout that clipserve reads; by default the model in the box.
MODEL ?=
# Where it listens.
LISTEN ?= 127.0.0.1:8080
# More arguments, for clipserve (run), the test filter (test), pytest (test-*), the benchmark (bench-*), the
# comparison (pictures), the attacks (attack), the hostile inputs (corpora, mutants), the check of a GPU (gpu-check) or the fuzzer (fuzz).
ARGS ?=

# rustup's installer puts cargo here, and a shell that was open before does not know it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
# Always here, whatever the user's own cargo settings say: the binary finds ONNX Runtime in an ancestor of its folder.
export CARGO_TARGET_DIR := $(CURDIR)/target

.PHONY: help build run test test-clients test-browser test-api test-scale test-databases lint deny bench bench-peers bench-recall bench-scale pictures attack corpora mutants gpu-check fuzz dist test-dist test-containers bench-bulk fetch-openvino deps clean

help: ## list the commands
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

build: deps ## build the release binary and fetch all that it needs at run time
	cargo build --release --locked

run: build ## build, then serve MODEL on LISTEN
	target/release/clipserve serve $(if $(MODEL),--model $(MODEL)) --listen $(LISTEN) $(ARGS)

test: deps $(if $(filter x86_64,$(shell uname -m)),fetch-openvino) ## run every test
	cargo test --locked $(ARGS)
	$(if $(ARGS),,cargo test --locked --lib --all-features preprocess::image)

test-clients: deps ## run other services' own clients against the service (ARGS="-k openai" for some)
	@tests/clients/run.sh $(ARGS)

test-browser: deps ## test the page in a headless Chromium, with the binary that was built last (ARGS="-k key" for some)
	@tests/browser/run.sh $(ARGS)

test-scale: build ## test deploy/ray/embed.py on a Ray cluster that loses a node (1 GB; ARGS="-k killed" for some)
	@tests/scale/run.sh $(ARGS)

test-databases: build ## run docs/vector-databases.md, and readers of what `embed` writes (2 GB; ARGS="-k LanceDB" for some)
	@tests/databases/run.sh $(ARGS)

test-containers: ## build the images and test them run, balanced and watched (deploy/test; ARGS="-k compose" for some, "-m cuda")
	@deploy/test/run.sh $(ARGS)

lint: deps ## check the format, clippy and the documentation
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --lib --locked --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --quiet

deny: ## check licences, sources, doubled and known faulty dependencies (ARGS="--offline" with a database that is there)
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	cargo deny --all-features $(ARGS) check

bench: deps $(if $(filter x86_64,$(shell uname -m)),fetch-openvino) ## measure the speed: against bare ONNX Runtime, and over connections and rates (ARGS="load --help")
	cargo bench --locked --bench serve -- $(ARGS)

bench-peers: deps $(if $(filter x86_64,$(shell uname -m)),fetch-openvino) ## measure beside infinity, transformers and OpenVINO (40 minutes, 16 GB) and write docs/benchmarks.md
	@benches/peers/install.sh
	cargo bench --locked --bench serve -- compare $(ARGS)

bench-bulk: deps $(if $(filter x86_64,$(shell uname -m)),fetch-openvino) ## measure `embed` beside clip-retrieval and sentence-transformers (20 minutes, 6 GB; ARGS="--help")
	@scripts/environment.sh benches/bulk target/bench/bulk "clip-retrieval and sentence-transformers"
	cargo bench --locked --bench serve -- bulk $(ARGS)

bench-recall: build ## measure how many nearest neighbours stay in each type of embeddings (5 minutes; ARGS="--help")
	@scripts/environment.sh benches/recall target/bench/recall "faiss, usearch and OpenMoji"
	target/bench/recall/bin/python -B benches/recall/recall.py $(ARGS)

bench-scale: build $(if $(filter x86_64,$(shell uname -m)),fetch-openvino) ## measure `embed` and Ray on this machine (10 minutes; ARGS="--only embed:f32")
	@scripts/environment.sh tests/scale target/scale "Ray"
	target/scale/bin/python -B benches/scale/measure.py $(ARGS)

pictures: deps ## compare our pictures with Pillow's and write docs/pictures.md (ARGS="FOLDER..."; ARGS="--random 20", ARGS="--help")
	@scripts/environment.sh benches/pictures target/bench/pictures "Pillow and transformers"
	target/bench/pictures/bin/python -B benches/pictures/compare.py $(ARGS)

test-api: build ## try the API by its OpenAPI document (schemathesis; EXAMPLES=200 for each operation)
	@tests/api/run.sh $(ARGS)

attack: deps ## attack a release build and print what it withstood (10 minutes; ARGS="overload quiet", ARGS="soak --minutes 60" for some)
	cargo bench --locked --bench serve -- attack $(ARGS)

corpora: deps ## send every file of a folder by every door of a release build (ARGS=FOLDER)
	cargo bench --locked --bench serve -- corpora $(ARGS)

mutants: deps ## send and load 100,000 broken files and bodies (ARGS="pictures bodies" for some, "graphs --number 7" for one)
	cargo bench --locked --bench serve -- mutants $(ARGS)

gpu-check: build ## rehearse the check of a GPU on the CPU (2 minutes; ARGS="--list" and ARGS="--pack FOLDER" for a machine that has one)
	cargo bench --locked --bench serve --no-run
	scripts/gpu-check.sh $(or $(ARGS),--dry-run)

fuzz: deps ## fuzz our parsers, a minute each (ARGS="60 gif json" for some)
	@fuzz/run.sh $(ARGS)

dist: build ## pack a tarball and a wheel into target/dist (docs/install.md; with OpenVINO: scripts/dist.sh --openvino)
	@scripts/dist.sh

test-dist: build ## pack twice, and run both packages in bare roots of Debian without a network (as root; ARGS="-k wheel" for some)
	@tests/dist/run.sh $(ARGS)

fetch-openvino: deps ## fetch OpenVINO for --precision bf16 (x86_64, 140 MB)
	@scripts/fetch-onnxruntime.sh --openvino

deps: # what the build and the tests call, and the pinned ONNX Runtime; nothing to do takes milliseconds
	@scripts/bootstrap.sh
	@scripts/fetch-onnxruntime.sh

clean: ## remove what was built and fetched
	rm -rf target .onnxruntime
