"""Signals from the adapter itself, which only our own runner records."""

from __future__ import annotations

from lora_advise.finding import Severity
from lora_advise.run_facts import Run
from lora_advise.signal_curves import Signal

UPDATES = 5
"""Optimizer steps after which B has left zero in every run that trains: AdamW's first step moves it by about the
rate."""


def frozen(run: Run) -> Signal | None:
    """B is still zero, or has not changed at all, after five optimizer steps."""
    late = [s for s in run.signals if s.step >= UPDATES]
    if not late:
        return None
    if all(s.norm_b == 0 for s in late):
        return Signal(
            f"Every B matrix of the adapter is still exactly 0 after {late[-1].step} optimizer steps: nothing "
            "reaches it.",
            late[0].step,
            Severity.ERROR,
        )
    same = len(late) >= 3 and len({(s.norm_b, s.norm_a) for s in late}) == 1
    if not same:
        return None
    return Signal(
        f"The norms of A and B did not change between steps {late[0].step} and {late[-1].step} (||B|| "
        f"{late[0].norm_b:.4g}): "
        "the adapter is loaded but not trained.",
        late[0].step,
        Severity.ERROR,
    )
