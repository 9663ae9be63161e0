# Each command sets up .venv by itself, with every version from constraints.txt.
# Narrow the tests with ARGS: make test ARGS="-k channel"
PYTHON ?= python3
PY := .venv/bin/python
# Two processes, a file of tests at a time, in the order of tests/conftest.py.
PYTEST := $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
INSTALL := $(PY) -m pip install --quiet -c constraints.txt -e ./facing
ARGS ?=
# What the build hook compiles; without a compiler it installs without.
KERNELS := hatch_build.py $(wildcard labml_bcn/native/build.py labml_bcn/native/src/*)
# GCC's checkers are loaded before all else. They look for exceptions in libstdc++.
PRELOAD = $(foreach name,asan ubsan stdc++,$(shell g++ -print-file-name=lib$(name).so))
export NO_MKDOCS_2_WARNING := 1

.PHONY: help serve site lab notebooks native quick test oldest ecosystem sanitize benchmarks gpu mutants results check format renew clean
help:
	@echo "make serve   build the site and serve it on http://127.0.0.1:8000, with live reload"
	@echo "make site    build the site into site/"
	@echo "make lab     open the notebooks in JupyterLab"
	@echo "make notebooks record the notebooks' outputs on CIFAR-10, for builds without it: ten minutes"
	@echo "make native  compile the C++ kernels anew, and say whether the layers use them"
	@echo "make quick   run the tests that answer within two minutes (narrow with ARGS=\"-k channel\")"
	@echo "make test    run every test (narrow with ARGS=\"-k channel\")"
	@echo "make ecosystem run the layers inside of Lightning, Accelerate, ONNX Runtime and others"
	@echo "make oldest  test the layers on the oldest PyTorch that they run on (5 GB to download)"
	@echo "make sanitize test the kernels under the address and undefined-behaviour sanitizers"
	@echo "make benchmarks record the speed page's numbers: ten minutes on a quiet machine"
	@echo "make gpu     test and measure the kernels on a GPU, with its machine's python3"
	@echo "make mutants show that the equations' tests notice a wrong equation"
	@echo "make results record the study: hours of training, resumable (ARGS=--list: what is there)"
	@echo "make check   lint, formatting, types and workflows"
	@echo "make format  mend what lint and formatting can mend"
	@echo "make renew   write constraints.txt anew, from the newest versions"
	@echo "make clean   remove what the other commands made, .venv included"

.venv/installed: pyproject.toml facing/pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv .venv
	$(INSTALL) -e '.[test]'
	$(PY) -m labml_bcn.native
	touch $@

.venv/installed-lab: .venv/installed
	$(INSTALL) -e '.[lab]'
	touch $@

.venv/installed-ecosystem: .venv/installed
	$(INSTALL) -e '.[ecosystem]'
	touch $@

serve: .venv/installed
	$(PY) -m mkdocs serve --dev-addr 127.0.0.1:8000 $(ARGS)

site: .venv/installed
	$(PY) -m mkdocs build $(ARGS)

lab: .venv/installed-lab
	$(PY) -m jupyterlab --notebook-dir notebooks $(ARGS)

notebooks: .venv/installed
	$(PY) -m website.notebook_records $(ARGS)

native: .venv/installed
	$(PY) labml_bcn/native/build.py
	$(PY) -m labml_bcn.native

quick: .venv/installed
	$(PYTEST) -m "not slow" $(ARGS)

test: .venv/installed
	$(PYTEST) $(ARGS)

# pyproject.toml says which PyTorch that is. It needs a Triton and a SymPy of its own.
.venv-oldest/installed: pyproject.toml facing/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-oldest
	sed -n 's/^dependencies = \["torch>=\(.*\)"\]$$/torch==\1.*/p' pyproject.toml \
		> .venv-oldest/constraints.txt
	grep -Ev '^(torch|triton|sympy)==' constraints.txt >> .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet -c .venv-oldest/constraints.txt \
		-e ./facing -e '.[docs]' pytest pytest-xdist playwright axe-playwright-python
	touch $@

oldest: .venv-oldest/installed
	$(PYTEST:$(PY)=.venv-oldest/bin/python) tests/layers $(ARGS)

# Here a package that is missing is a failure. `make test` leaves its tests out.
ecosystem: .venv/installed-ecosystem
	LABML_BCN_ECOSYSTEM=require $(PYTEST) tests/ecosystem $(ARGS)

sanitize: .venv/installed
	CXX=g++ $(PY) labml_bcn/native/build.py --sanitize --out .cache/sanitized
	LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=detect_leaks=0 \
		LABML_BCN_LIBRARY=.cache/sanitized/_kernels.so \
		$(PY) -m pytest -m "not slow" tests/layers/test_native_library.py \
		tests/layers/test_native.py $(ARGS)

benchmarks: .venv/installed
	$(PY) -m labml_bcn.experiment.bench.record docs/benchmarks $(ARGS)

# On the machine with the GPU, whose Python has PyTorch, Triton and pytest.
gpu:
	$(PYTHON) tools/gpu.py docs/benchmarks $(ARGS)

mutants: .venv/installed
	$(PY) tools/mutants.py $(ARGS)

results: .venv/installed
	$(PY) -m labml_bcn.experiment.study $(ARGS)

check: .venv/installed
	$(PY) tools/style.py
	$(PY) -m mypy
	.venv/bin/zizmor --offline --quiet .github

format: .venv/installed
	$(PY) tools/style.py --fix

renew:
	$(PYTHON) tools/renew_constraints.py

clean:
	rm -rf .venv .venv-oldest .cache site dist
