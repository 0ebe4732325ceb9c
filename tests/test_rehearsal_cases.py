"""The comparison of the closed form with the rehearsal: which runs it is made of."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path

BENCHMARKS = Path(__file__).parent / "benchmarks"


def cases():
    spec = importlib.util.spec_from_file_location("rehearsal_cases", BENCHMARKS / "rehearsal_cases.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_every_kind_of_model_goes_through_every_setting() -> None:
    found = cases()
    chosen = defaultdict(set)
    for model, setting in found.pairs(6, ("mamba", "jamba")):
        chosen[model.kind].add(setting)
    assert set(chosen) == {"dense", "moe", "vlm", "hybrid", "ssm"}
    assert all(settings == set(found.SETTINGS) for settings in chosen.values())


def test_every_type_is_there_and_no_run_twice() -> None:
    found = cases()
    runs = [(model.name, setting) for model, setting in found.pairs(6, ())]
    assert len(runs) == len(set(runs)) >= 200
    assert {model.model_type for model, _ in found.pairs(6, ())} == {m.model_type for m in found.models()}


def test_adapters_are_left_out_of_what_rows_of_text_never_reach() -> None:
    from lora_advise.adapters import targets

    found = cases()
    for model in found.models():
        facts = found.run_of(model, found.SETTINGS[0])
        inside = targets(model, facts.lora)
        assert inside, model.name
        assert not {t.module.role for t in inside} & {"vision", "audio", "projector"}, model.name
