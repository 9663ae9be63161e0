# Each command sets up .venv by itself, with every version from constraints.txt.
# Narrow the tests with ARGS: make test ARGS="-k channel"
PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=
export NO_MKDOCS_2_WARNING := 1

.PHONY: help serve site lab test mutants results check clean
help:
	@echo "make serve   build the site and serve it on http://127.0.0.1:8000, with live reload"
	@echo "make site    build the site into site/"
	@echo "make lab     open the notebooks in JupyterLab"
	@echo "make test    run every test (narrow with ARGS=\"-k channel\")"
	@echo "make mutants show that the equations' tests notice a wrong equation"
	@echo "make results record the study: hours of training, resumable (ARGS=--list: what is there)"
	@echo "make check   lint, formatting and types"
	@echo "make clean   remove what the other commands made, .venv included"

.venv/installed: pyproject.toml facing/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet -c constraints.txt -e ./facing -e '.[test]'
	touch $@

.venv/installed-lab: .venv/installed
	$(PY) -m pip install --quiet -c constraints.txt -e ./facing -e '.[lab]'
	touch $@

serve: .venv/installed
	$(PY) -m mkdocs serve --dev-addr 127.0.0.1:8000 $(ARGS)

site: .venv/installed
	$(PY) -m mkdocs build $(ARGS)

lab: .venv/installed-lab
	$(PY) -m jupyterlab --notebook-dir notebooks $(ARGS)

test: .venv/installed
	$(PY) -m pytest $(ARGS)

mutants: .venv/installed
	$(PY) tools/mutants.py $(ARGS)

results: .venv/installed
	$(PY) -m labml_bcn.experiment.study $(ARGS)

check: .venv/installed
	$(PY) tools/style.py
	$(PY) -m mypy

clean:
	rm -rf .venv .cache site dist
