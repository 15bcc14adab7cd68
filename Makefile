PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Which tests: make test TESTS=tests/klein
TESTS :=

.PHONY: test demo bench environment

# Three processes: many tests wait for a browser or a clock, so that they keep two cores busy.
test: environment
	$(RUN) -m pytest --numprocesses=3 --dist=loadscope --no-loadscope-reorder $(TESTS)

demo: environment
	$(RUN) tests/demo

bench: environment
	$(RUN) tests/bench

environment:
	@$(PYTHON) tests/environment.py $(VENV)
