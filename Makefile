# Everything a newcomer or CI needs; `make help` lists it. `make demo` and `make test` set up whatever is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CARGO ?= cargo
RUST_TEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo "nextest run" || echo "test")

.DEFAULT_GOAL := help
.PHONY: help demo dev fmt check test rust-test python-test instructions coverage fuzz bench profiles site wheel clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed (set PYTHON=...)" >&2; exit 2; }
	@command -v $(CARGO) >/dev/null || { echo "error: Rust 1.95 or newer is needed to build from source (or install a wheel)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(BIN)/python pyproject.toml Cargo.toml Cargo.lock $(shell find crates -name '*.rs' -o -name Cargo.toml)
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs,report]'
	@touch $@

dev: $(VENV)/.installed ## Environment, build, editable install

demo: dev ## Explore Llama-3.1-70B on H100 and B200, and write the front to out/demo/front.parquet
	$(BIN)/energylens demo

fmt: dev ## Format everything
	$(CARGO) fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: dev ## Format, lint and type checks
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest energylens._core

rust-test: ## Rust tests, documentation examples included; the same random examples on every run
	PROPTEST_RNG_SEED=$${PROPTEST_RNG_SEED:-2026} $(CARGO) $(RUST_TEST) --locked
	$(CARGO) test --doc --locked --quiet

python-test: dev ## Python tests, in two processes (JOBS=4)
	$(BIN)/python -m pytest -q -n $${JOBS:-2} --dist worksteal

instructions: dev ## Instructions of the core under valgrind against benchmarks/instructions.json (skipped without valgrind)
	$(BIN)/python benchmarks/instructions.py

coverage: dev ## Coverage of the Python package by its tests, printed; HTML in out/coverage (tests of time limits may fail: tracing is slow)
	$(BIN)/python -m pip install --quiet --editable '.[coverage]'
	$(BIN)/python -m pytest -q --cov --cov-report=term --cov-report=html

fuzz: dev ## Ten minutes of mutated files, frames and command lines (SECONDS=600); what fails is written to out/fuzz
	cd tests && $(abspath $(BIN))/python -m fuzz --seconds $${SECONDS:-600} --out ../out/fuzz

test: check rust-test python-test instructions site wheel ## Everything CI runs

bench: dev ## Points a second, searches, and the core by criterion (docs/benchmarks.md is made by benchmarks/all.py)
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/plan.py
	$(CARGO) bench --locked -p energylens-core --bench engine

FITTED := h100-sxm,b200,h200-sxm,gb200,a100-sxm-80gb,l40s

profiles: dev ## Fit the bundled GPU profiles again: same files, 15 minutes (needs ENERGYLENS_DATA; docs/calibration.md)
	$(BIN)/python -m pip install --quiet --editable '.[calibrate]'
	$(BIN)/energylens calibrate kernels $(FITTED) --write
	$(BIN)/energylens calibrate power $(FITTED) --write
	$(BIN)/energylens calibrate serving $(FITTED) --write

site: dev ## The documentation site, in out/site
	$(BIN)/python website/build.py

wheel: dev ## The sdist, and the wheel built from it, in dist/; tried in an environment without Rust
	rm -rf dist
	$(BIN)/maturin sdist --out dist
	mkdir -p target/sdist && rm -rf target/sdist/* && tar -xzf dist/*.tar.gz -C target/sdist --strip-components 1
	cd target/sdist && CARGO_TARGET_DIR=../from-sdist $(abspath $(BIN))/maturin build --profile dist --locked --quiet --out ../../dist
	$(BIN)/python packaging/check_wheel.py dist

clean: ## Remove what was built
	rm -rf $(VENV) target dist out python/energylens/_core.*.so
