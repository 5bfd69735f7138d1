# `make run` and `make test` set up everything they need in .venv; nothing else on the machine changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard matyan/*.pyx matyan/codec/*.pxi matyan/store/fdb/*.pyx matyan/broker/kafka/*.pyx) setup.py pyproject.toml

.PHONY: setup run kafka s3 test test-long test-faults test-fdb fuzz test-adapters browser deploy-tools test-deploy screenshots docs docs-serve lint asan wheel wheels bench clean
setup: $(VENV)/.ready

$(VENV)/.ready: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit("matyan needs Python 3.11 or newer; call: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'
	touch $@

run: setup
	$(BIN)/matyan up

# A real Kafka on 127.0.0.1:9092 (Java and Maven), its data under .kafka; Ctrl-C stops it. SECURITY=ssl|scram|plain|oauthbearer
# asks who comes in, BROKERS=3 starts three (ports 9092 to 9094); it prints the environment that connects.
kafka: setup
	$(BIN)/python -m dev.broker --port 9092 --data .kafka --security $(or $(SECURITY),plaintext) --brokers $(or $(BROKERS),1)

# A real S3 server on 127.0.0.1:9000 (Java and Maven) with the bucket of the defaults, its data under .s3; Ctrl-C stops it.
s3: setup
	$(BIN)/python -m dev.s3 --port 9000 --data .s3

# Side by side, a file each: two to a core, since half of a test's time goes by waiting for brokers, workers and the SDK.
test: setup
	$(BIN)/python -m pytest -q -n $(or $(SIDE_BY_SIDE),4) --dist loadfile --no-loadscope-reorder

# What `make test` has no time for, or not the machine: a line for each, whose tests say what they miss and are skipped then.
test-long: export MATYAN_TEST_LONG := 1
test-long: setup
	$(BIN)/python -m pytest -q tests/soak
	$(BIN)/python -m pytest -q tests/image
	$(BIN)/python -m pytest -q tests/moving
	$(BIN)/python -m pytest -q tests/importers
	MATYAN_TEST_AT_LENGTH=1 $(BIN)/python -m pytest -q tests/backups/test_storm.py
	$(BIN)/python -m pytest -q tests/docs/test_pages.py
	$(BIN)/python -m dev.wheels

# The fault tests with many more kills than `make test` has time for.
test-faults: setup
	MATYAN_TEST_AT_LENGTH=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/faults tests/kafka tests/workers/test_storm.py

# What runs on FoundationDB, on the cluster of FDB_CLUSTER_FILE: one of the tests' own, since they remove what stands in it. The
# first line says what is missing; the last tests, of processes that share the cluster, print what they counted. At length:
# MATYAN_FDB_MINUTES=30 for the random kills (1), MATYAN_TEST_AT_LENGTH=1 for more rounds of everything.
test-fdb: setup
	$(BIN)/python -m tests.fdb
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -k fdb tests/contracts/test_store.py tests/store tests/rules tests/workers tests/jobs tests/kafka/test_worker.py tests/kafka/test_partitions_added.py
	$(BIN)/python -m pytest -q tests/cluster

# A whole deployment under training programs for MATYAN_SOAK_MINUTES (60), while one thing after another is killed, frozen, filled
# or locked out; on the cluster of FDB_CLUSTER_FILE where there is one. What it shows at its end: python -m tests.soak --help
.PHONY: soak
soak: setup
	$(BIN)/python -m tests.soak

# Hostile connections for MATYAN_FUZZ_SECONDS (600), from MATYAN_FUZZ_SEED or one that is printed.
fuzz: export MATYAN_FUZZ_SECONDS ?= 600
fuzz: setup
	$(BIN)/python -m pytest -q -s tests/faults/test_fuzz.py -k harms_nobody

# Chromium for the tests of the web app: Debian's, where this is root.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name && exit 0; done; \
	. /etc/os-release; [ "$$ID" = debian ] && [ "$$(id -u)" = 0 ] || { echo "There is no Chromium on the PATH; install one." >&2; exit 1; }; \
	export DEBIAN_FRONTEND=noninteractive; timeout 60 apt-get -qq update; \
	timeout 150 apt-get -qq -y install --no-install-recommends chromium >/dev/null

# The programs that judge deploy/: helm and the Compose specification's own loader, built from their Go modules, and promtool out
# of Debian's package, which is not installed. One that is there already is not made again.
HELM := helm.sh/helm/v3/cmd/helm@v3.19.0
COMPOSE := github.com/compose-spec/compose-go/v2/cmd@v2.16.2
DEPLOY_TOOLS := $(abspath build/deploy-tools)
deploy-tools:
	mkdir -p $(DEPLOY_TOOLS)
	test -x $(DEPLOY_TOOLS)/compose || { GOBIN=$(DEPLOY_TOOLS) go install $(COMPOSE) && mv $(DEPLOY_TOOLS)/cmd $(DEPLOY_TOOLS)/compose; }
	test -x $(DEPLOY_TOOLS)/helm || GOBIN=$(DEPLOY_TOOLS) go install -ldflags='-s -w' $(HELM)
	@command -v promtool || test -x $(DEPLOY_TOOLS)/promtool || { cd $(DEPLOY_TOOLS) && \
	{ apt-get -qq download prometheus || { timeout 60 apt-get -qq update; timeout 150 apt-get -qq download prometheus; }; } && \
	dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool && rm prometheus_*.deb; } || \
	{ echo "There is no promtool on the PATH; install Prometheus." >&2; exit 1; }

# compose.yaml, the chart, the units, the dashboards and the alerts, by the programs that will read them.
test-deploy: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/deploy

# The pictures of the web app in docs/images.
screenshots: setup browser
	$(BIN)/python -m tests.browser.shots docs/images

# The SDK's callbacks on the real Hugging Face Trainer, Lightning and Keras, in environments under build/ (PyTorch: gigabytes).
test-adapters: setup
	MATYAN_TEST_ADAPTERS=1 $(BIN)/python -m pytest -q tests/adapters

# The pages of docs/ in build/site, and the same while they are written: at http://127.0.0.1:8000, anew after each change.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-serve: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --strict

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The codec's tests on a build with AddressSanitizer and UBSan, in a folder of its own. An error ends the process.
# Python's own allocations are not judged for leaks; PYTHONMALLOC makes each object a malloc, so that its end is seen.
ASAN := build/asan
asan: setup
	rm -rf $(ASAN) && mkdir -p $(ASAN) && cp -r matyan $(ASAN)/ && find $(ASAN)/matyan -name '*.so' -delete -o -name '_*.c' -delete
	cp setup.py $(ASAN)/ && cp -r tests dev $(ASAN)/
	cd $(ASAN) && MATYAN_SANITIZE=1 $(abspath $(BIN))/python setup.py -q build_ext --inplace
	cd $(ASAN) && LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc PYTHONPATH=. \
		$(abspath $(BIN))/python -m pytest -q -p no:cacheprovider -c /dev/null --rootdir . --hypothesis-profile=ci tests/codec

# Short forms; each program's --help names its options. The peers' environments are made under build/.
bench: setup
	$(BIN)/python -m bench.ingest --rounds 1 --seconds 3 --scale 0.2
	$(BIN)/python -m bench.frame --seconds 2 --embedded-only
	$(BIN)/python -m bench.peers --rounds 1 --scale 0.2
	$(BIN)/python -m bench.frontier --rounds 1 --seconds 2 --only ours
	$(BIN)/python -m bench.worker --rounds 1 --records 300000 --seconds 3 --metrics 1
	$(BIN)/python -m bench.api --runs 1000 --points 1000 --rounds 3 --seconds 2
	$(BIN)/python -m bench.stalls
	$(BIN)/python -m bench.presign --rounds 3
	$(BIN)/python -m bench.quota --rounds 1 --seconds 2

# The source distribution and its wheels in dist/, each installed and tried in fresh environments: for every Python that the
# package supports, or for the one of `make setup` alone.
wheels: setup
	$(BIN)/python -m dev.wheels

wheel: setup
	$(BIN)/python -m dev.wheels --this

clean:
	rm -rf $(VENV) build *.egg-info
	find matyan -name '*.so' -delete -o -name '_*.c' -delete
