# The README's two commands, `make demo` and `make test`, and nothing that they do not wrap: the plain commands stand in the README.
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python

.PHONY: demo test lint setup

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt
	touch $@

demo: $(VENV)/.installed
	$(RUN) train.py -m experiment=demo
	$(RUN) evaluate_sharpness.py runs_dir=runs/demo 'sharpness.rho=[0.05,0.5]' threads=1 processes=2

test: $(VENV)/.installed-dev
	$(RUN) -m pytest -n 2

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
