# Tasks for developers; CI calls the README's test command.
.PHONY: test lint types link docs

link:
	@rm -rf .link && mkdir -p .link/lora_advise
	@cd .link/lora_advise && ln -s ../../advisor/* . && ln -s ../../rules ../../templates ../../runner .

types: link
	python -m mypy

lint:
	python -m ruff check .

test:
	python -m pytest
