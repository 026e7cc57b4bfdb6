# make book       install, run the whole chain, render its book
# make test       install, lint, run the tests and every notebook
# make notebooks  execute the committed notebooks again on their defaults
# make clean      remove what was made, except .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: book test notebooks clean

book: $(INSTALLED)
	$(BIN)/prefill-router run experiments/default.yaml
	$(BIN)/prefill-router book runs/default --output _build/html

test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/pytest -n auto --dist loadfile tests
	$(BIN)/pytest --nbval notebooks/*.ipynb

notebooks: $(INSTALLED)
	$(BIN)/prefill-router notebooks

clean:
	rm -rf _build runs .cache .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[book,test]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
