"""Time of the advice against its bare imports: run it with python; prints seconds and the ratio.

The two commands take turns, so that a busy machine slows both; the fastest of each counts, as wall clock and as processor
time of the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

IMPORTS = [sys.executable, "-c", "import pydantic, rich.console, jinja2, yaml"]
ADVICE = [sys.executable, "-m", "lora_advise", "--model", "32B", "--task", "qa"]


def seconds(command):
    """Wall-clock and processor seconds of one run."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return wall, used.ru_utime + used.ru_stime


def main(repeat=15):
    """Print one line for each command, and the ratios of the fastest runs."""
    os.environ["PYTHONDONTWRITEBYTECODE"] = ""  # the first run writes what the others read
    commands = {"imports": IMPORTS, "advice": ADVICE}
    runs = {name: [] for name in commands}
    for turn in range(repeat + 1):
        for name, command in commands.items():
            taken = seconds(command)
            if turn:
                runs[name].append(taken)
    best = {name: [min(values) for values in zip(*found, strict=True)] for name, found in runs.items()}
    for name, (wall, processor) in best.items():
        print(f"{name:8s} {wall:6.3f} s wall  {processor:6.3f} s processor")
    wall, processor = (a / b for a, b in zip(best["advice"], best["imports"], strict=True))
    print(f"advice / imports: {wall:.2f} by wall clock, {processor:.2f} by processor time (limit 2)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
