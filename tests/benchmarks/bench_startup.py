"""Time of the advice against its bare imports: run it with python; prints seconds, ratios and, with valgrind, instructions.

The two commands take turns, so that a busy machine slows both; the ratio is the median over the pairs. Instructions do not
depend on how busy the machine is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from statistics import median

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


def instructions(command):
    """Instructions of one run in millions, counted by valgrind's cachegrind."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", *command]
    done = subprocess.run(valgrind, capture_output=True, text=True, check=True)
    return int(re.search(r"refs:\s+([\d,]+)", done.stderr)[1].replace(",", "")) / 1e6


def main(repeat=15):
    """Print one line for each command, and the ratios."""
    os.environ["PYTHONDONTWRITEBYTECODE"] = ""  # the first run writes what the others read
    commands = {"imports": IMPORTS, "advice": ADVICE}
    runs = [[seconds(command) for command in commands.values()] for _ in range(repeat + 1)][1:]
    for name, taken in zip(commands, zip(*runs, strict=True), strict=True):
        wall, processor = (median(values) for values in zip(*taken, strict=True))
        print(f"{name:8s} {wall:6.3f} s wall  {processor:6.3f} s processor (medians of {repeat})")
    wall, processor = (median(advice[n] / imports[n] for imports, advice in runs) for n in (0, 1))
    print(f"advice / imports: {wall:.2f} by wall clock, {processor:.2f} by processor time (limit 2)")
    if shutil.which("valgrind"):
        bare, advice = (instructions(command) for command in commands.values())
        print(f"advice / imports: {advice:,.0f} / {bare:,.0f} million instructions = {advice / bare:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
