# Tasks for developers; CI calls the README's test command.
.PHONY: test lint types

types:
	.ci/types

lint:
	python -m ruff check .
	python -m ruff format --check .

test:
	python -m pytest -n 2
