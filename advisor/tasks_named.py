"""Words of a command or a file name that say what a run is for: ``trl dpo``, ``examples/scripts/sft.py``, ``dpo/config.yaml``."""

from __future__ import annotations

import re

from lora_advise.document import Config

_WORDS = re.compile(r"[a-z]+")
_KNOWN = {"sft", "dpo", "kto", "orpo", "cpo", "simpo", "grpo", "gspo", "rloo", "ppo", "reward", "clm"}
_OTHER = {"online", "distillation", "gold", "gkd", "tpo", "bco", "prm", "xpo", "nash", "sdft", "sdpo"}
"""Methods that are none of ours: a script of these is not one of the method whose name it has beside it."""


def task_words(config: Config, document: str = "") -> tuple[str, ...]:
    """The method's name in the program, else in the document's own name and its folder's; at most one, or none."""
    for place in (config.program, tuple(document.replace("\\", "/").rsplit("/", 2)[-2:])):
        words = [w for part in place for w in _WORDS.findall(part.rsplit("/", 1)[-1].lower())]
        if _OTHER & set(words):
            return ()
        found = tuple(dict.fromkeys("pt" if w == "clm" else w for w in words if w in _KNOWN))
        if found:
            return found if len(found) == 1 else ()
    return ()
