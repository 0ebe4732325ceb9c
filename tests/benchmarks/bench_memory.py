"""Time of a memory forecast: run it with python; prints milliseconds (median of many calls)."""

from __future__ import annotations

import importlib.util
import statistics
import time
from pathlib import Path

from lora_advise import memory


def _cases():
    spec = importlib.util.spec_from_file_location("test_memory", Path(__file__).parents[1] / "test_memory.py")
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    return cases


def milliseconds(call, repeat=200):
    """Median CPU time of one call, so that a busy machine does not change the result."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        call()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def main():
    """Print one line for each function."""
    facts = _cases().run(method="qlora", gib=16.0, per_device_train_batch_size=8)
    for name in ("estimate", "fit", "largest_micro_batch", "longest_sequence", "ways_out", "judge"):
        function = getattr(memory, name)
        print(f"{name:22s} {milliseconds(lambda call=function: call(facts)):7.3f} ms")


if __name__ == "__main__":
    main()
