"""Rules of the linter, by code: LRS rates and scale, RNK rank, TGT targets, QNT precision, MEM memory and batch, DAT data, SCH
schedule and evaluation, PRF preference and RL, VAR variants, SRV serving. Rules about a finished run are ``RUN_RULES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_advise.rule import Rule
from lora_advise.rules.adapter_file import ADAPTER_FILE_RULES
from lora_advise.rules.batch import BATCH_RULES
from lora_advise.rules.conflicts import CONFLICT_RULES
from lora_advise.rules.contradictions import CONTRADICTION_RULES
from lora_advise.rules.data import DATA_RULES
from lora_advise.rules.data_quality import DATA_QUALITY_RULES
from lora_advise.rules.dropout import DROPOUT_RULES
from lora_advise.rules.evaluation import EVALUATION_RULES
from lora_advise.rules.keys import KEY_RULES
from lora_advise.rules.lengths import LENGTH_RULES
from lora_advise.rules.memory_fit import MEMORY_RULES
from lora_advise.rules.merging import MERGING_RULES
from lora_advise.rules.number_formats import NUMBER_FORMAT_RULES
from lora_advise.rules.parts_in_memory import PARTS_IN_MEMORY_RULES
from lora_advise.rules.passes import PASS_RULES
from lora_advise.rules.precision import PRECISION_RULES
from lora_advise.rules.preference import PREFERENCE_RULES
from lora_advise.rules.preference_low import PREFERENCE_LOW_RULES
from lora_advise.rules.quantization import QUANTIZATION_RULES
from lora_advise.rules.rank import RANK_RULES
from lora_advise.rules.rate import RATE_RULES
from lora_advise.rules.rate_low import RATE_LOW_RULES
from lora_advise.rules.reentrance import REENTRANCE_RULES
from lora_advise.rules.refused_options import REFUSED_OPTION_RULES
from lora_advise.rules.refused_targets import REFUSED_TARGET_RULES
from lora_advise.rules.safety import SAFETY_RULES
from lora_advise.rules.saved_modules import SAVED_RULES
from lora_advise.rules.scale import SCALE_RULES
from lora_advise.rules.schedule import SCHEDULE_RULES
from lora_advise.rules.serving import SERVING_RULES
from lora_advise.rules.sharding import SHARDING_RULES
from lora_advise.rules.suppression import SUPPRESSION_RULES
from lora_advise.rules.target_share import TARGET_SHARE_RULES
from lora_advise.rules.target_words import TARGET_WORD_RULES
from lora_advise.rules.targets import TARGET_RULES
from lora_advise.rules.templates import TEMPLATE_RULES
from lora_advise.rules.tokens import TOKEN_RULES
from lora_advise.rules.values import VALUE_RULES
from lora_advise.rules.variants import VARIANT_RULES
from lora_advise.rules.variants_refused import VARIANT_REFUSED_RULES
from lora_advise.rules.without_switch import WITHOUT_SWITCH_RULES

if TYPE_CHECKING:
    from lora_advise.rules.run_rules import RUN_RULES as RUN_RULES

_ALL: tuple[Rule, ...] = (
    *SCALE_RULES,
    *RATE_RULES,
    *RATE_LOW_RULES,
    *RANK_RULES,
    *DROPOUT_RULES,
    *TARGET_RULES,
    *TARGET_SHARE_RULES,
    *TARGET_WORD_RULES,
    *SAVED_RULES,
    *REFUSED_TARGET_RULES,
    *PRECISION_RULES,
    *QUANTIZATION_RULES,
    *MEMORY_RULES,
    *BATCH_RULES,
    *DATA_RULES,
    *DATA_QUALITY_RULES,
    *SCHEDULE_RULES,
    *EVALUATION_RULES,
    *PREFERENCE_RULES,
    *PREFERENCE_LOW_RULES,
    *VARIANT_RULES,
    *VARIANT_REFUSED_RULES,
    *SERVING_RULES,
    *KEY_RULES,
    *VALUE_RULES,
    *CONFLICT_RULES,
    *CONTRADICTION_RULES,
    *WITHOUT_SWITCH_RULES,
    *REFUSED_OPTION_RULES,
    *ADAPTER_FILE_RULES,
    *NUMBER_FORMAT_RULES,
    *PARTS_IN_MEMORY_RULES,
    *SHARDING_RULES,
    *REENTRANCE_RULES,
    *MERGING_RULES,
    *TOKEN_RULES,
    *TEMPLATE_RULES,
    *LENGTH_RULES,
    *PASS_RULES,
    *SAFETY_RULES,
    *SUPPRESSION_RULES,
)
RULES: tuple[Rule, ...] = tuple(sorted(_ALL, key=lambda rule: int(rule.code[3:])))
"""Every rule that judges a configuration, in the order of its family and code: codes count through the families."""


def __getattr__(name: str) -> Any:
    """``RUN_RULES``, imported when it is first asked for: linting a configuration does not need the diagnosis rules."""
    if name == "RUN_RULES":
        from lora_advise.rules.run_rules import RUN_RULES

        return RUN_RULES
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
