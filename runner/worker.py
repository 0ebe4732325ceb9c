"""One of several training processes: ``accelerate launch -m lora_advise.runner.worker PLAN OUT [--resume]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lora_advise.errors import LoraAdviseError


def main(arguments: list[str] | None = None) -> int:
    """Train this process's share of the run and return its exit code."""
    parser = argparse.ArgumentParser(prog="lora_advise.runner.worker", description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args(arguments)

    from lora_advise.plan_file import read_plan
    from lora_advise.runner.run import train_here

    try:
        return train_here(read_plan(given.plan), given.out, resume=given.resume).exit_code
    except LoraAdviseError as error:
        print(f"lora-advise: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
