# The README's two commands, `make demo` and `make test`, and what CI runs beside: the plain commands stand in the README.
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python

# The arithmetic of an old processor, for the tests of numbers: they must hold on any. Each variable changes last digits on its own: the
# first those of torch's own kernels (BatchNorm, normal random numbers, so initial weights too), the second those of oneDNN (float32
# convolutions), the third those of MKL (products of matrices, float64 convolutions, eigenvalues). What they do not reach: float16 and
# bfloat16 convolutions. torch.compile's own code cannot be built in this mode (at::vec is not declared), so its tests are left out.
OLD     = ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE
NUMBERS = $(addprefix tests/,core data models optimizers sharpness theory training) --ignore=tests/training/test_compiling.py

.PHONY: demo test test-all lint setup

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
	$(RUN) -m pytest -n 2 -m "not slow"

test-all: $(VENV)/.installed-dev
	$(RUN) -m pytest -n 2 -m slow
	$(RUN) -m pytest -n 2 --dist loadfile examples/plugin
	SAM_PLUGINS=examples.plugin.zsharp $(RUN) -m pytest -n 2 -m contract -k zsharp
	$(OLD) $(RUN) -m pytest -n 2 -m "not slow" $(NUMBERS)

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(RUN) -m pytest tests/test_house.py
	$(RUN) tests/test_house.py
