"""Every rule that needs the ``run`` section: a diagnosis is a lint of what a training run left behind."""

from __future__ import annotations

from lora_advise.rule import Rule
from lora_advise.rules.run_adapter import ADAPTER_RULES
from lora_advise.rules.run_budget import BUDGET_RULES
from lora_advise.rules.run_eval import EVAL_RULES
from lora_advise.rules.run_numerics import NUMERIC_RULES
from lora_advise.rules.run_stability import STABILITY_RULES

RUN_RULES: tuple[Rule, ...] = tuple(
    sorted((*NUMERIC_RULES, *ADAPTER_RULES, *STABILITY_RULES, *EVAL_RULES, *BUDGET_RULES), key=lambda r: r.code)
)
"""In the order of their codes."""
