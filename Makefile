# The commands of this repository; bare `make` lists them. Works with GNU make 3.81 (macOS) and newer, and any POSIX sh.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Name another Python with `make PYTHON=/path/to/python3.12`; pass arguments on with `make test ARGS="-k canvas"`.
PYTHON ?=
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLING := $(VENV)/.installing
DOCKERFILES := $(wildcard infra/docker/Dockerfile*)
SHELL_SCRIPTS := .ci/run $(wildcard infra/*.sh infra/*/*.sh)

# One torch for everyone. Only the lock pins it: pyproject.toml keeps a range for those who bring their own.
TORCH := 2.13.0

.PHONY: help
help: ## explain these targets
	@echo "Usage: make TARGET"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-7s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "The first target that needs it makes .venv (once; needs only Python 3.11 or newer)."

.PHONY: demo
demo: $(READY) ## start everything on this machine, fill scenes and photographs, write demo/report.html
	$(RUN)/python -m infra.demo $(ARGS)

.PHONY: up
up: $(READY) ## start everything on this machine and keep it running until Ctrl-C
	$(RUN)/fillfleet up $(ARGS)

.PHONY: test
test: $(READY) ## run the tests against real servers started from wheels
	$(RUN)/python -m pytest $(ARGS)

.PHONY: lint
lint: lint-style lint-types lint-imports lint-docker lint-shell ## check style, types, import rules, Dockerfiles, compose files, scripts

.PHONY: bench
bench: $(READY) ## measure every row of docs/performance.md beside its peer (a quarter of an hour, on a quiet machine)
	$(RUN)/python -m tests.benchmarks $(ARGS)

.PHONY: model
model: $(READY) ## train the bundled demo model and its LoRAs anew (hours on a CPU; goes on where it was stopped)
	$(RUN)/python -m infra.demo_model train $(ARGS)

.PHONY: lock
lock: $(READY) ## write requirements.lock anew; ARGS=--upgrade takes newer versions
	@$(RUN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "make lock needs a .venv of Python 3.11, the oldest that is supported: rm -r .venv && make lock PYTHON=python3.11"; exit 1; }
	CUSTOM_COMPILE_COMMAND="make lock" $(RUN)/pip-compile --quiet --extra worker --extra fast --extra embedded --extra dev \
		--upgrade-package torch==$(TORCH) --unsafe-package pip --strip-extras --annotation-style line \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
		$(ARGS) --output-file requirements.lock pyproject.toml
	@# torch's build (+cpu) and its CUDA libraries depend on the machine: pip chooses them anew on each.
	@sed -e 's/^\(torch==[0-9.]*\)+[a-z0-9.]*/\1/' -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^triton==/d' \
		requirements.lock > requirements.lock.new && mv requirements.lock.new requirements.lock

# --- the environment
# .installing becomes .ready at the very end, so that an interrupted install is started anew and never taken for done.
$(READY): pyproject.toml requirements.lock
	$(eval FOUND := $(shell sh infra/find_python.sh "$(PYTHON)"))
	$(if $(filter missing:,$(firstword $(FOUND))),$(error $(FOUND)))
	@echo "Making $(VENV) with $(FOUND): once, and minutes rather than seconds where torch has to be downloaded"
	@if [ -e $(INSTALLING) ] || ! $(RUN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		rm -rf $(VENV); fi
	@mkdir -p $(VENV) && rm -f $(READY) && : > $(INSTALLING)
	@"$(FOUND)" -m venv $(VENV)
	$(RUN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(RUN)/python -m pip install --disable-pip-version-check --no-deps -e .
	@mv $(INSTALLING) $(READY)

# --- the parts of lint; `make -k lint` goes on after the first that fails, `make -j lint` runs them side by side
.PHONY: lint-style lint-types lint-imports lint-docker lint-shell
lint-style: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

lint-types: $(READY)
	$(RUN)/mypy

lint-imports: $(READY)
	$(RUN)/lint-imports

# Compose refuses to start without its secrets; for this check alone every one of them is the word "lint".
COMPOSE_SECRETS := POSTGRES_PASSWORD REDIS_PASSWORD S3_ACCESS_KEY S3_SECRET_KEY API_KEY_SECRET FLOWER_USER FLOWER_PASSWORD
COMPOSE := env $(addsuffix =lint,$(COMPOSE_SECRETS)) $(RUN)/docker-compose --env-file /dev/null
lint-docker: $(READY)
	$(RUN)/hadolint $(DOCKERFILES)
	$(COMPOSE) -f docker-compose.yml config --quiet
	$(COMPOSE) -f docker-compose.yml -f docker-compose.cpu.yml config --quiet

lint-shell: $(READY)
	$(RUN)/shellcheck $(SHELL_SCRIPTS)
