"""Our plan files as one dialect among others, and the generated page of all dialects."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_advise import advise, write_plan
from lora_advise.dialects import dialect, names
from lora_advise.dialects_page import page
from lora_advise.document_read import read_document
from lora_advise.errors import LoraAdviseError
from lora_advise.lint_files import Wanted, lint_document, readings_of

ROOT = Path(__file__).resolve().parents[1]


def test_a_plan_is_its_own_facts_with_places():
    advice = advise("8B", "qa", gpu="RTX4090")
    document = read_document("plan.yaml", text=write_plan(advice.plan, advice.decisions))
    ((_, reading),) = readings_of(document, Wanted())
    assert reading.dialect.name == "plan"
    assert reading.facts == advice.facts
    (entry,) = reading.places["train.learning_rate"]
    assert document.text[entry.span.start : entry.span.end] == entry.text
    assert float(entry.text) == advice.facts.train.learning_rate


def test_a_broken_plan_is_named_with_its_line():
    text = write_plan(advise("8B", "qa").plan).replace("learning_rate:", "learnin_rate:", 1)
    with pytest.raises(LoraAdviseError, match=r"^plan\.yaml line \d+: training has no key 'learnin_rate'"):
        lint_document(read_document("plan.yaml", text=text), Wanted())


@pytest.mark.parametrize("name", names())
def test_every_dialect_has_lenses_that_exist_once(name):
    one = dialect(name)
    assert one.name == name
    assert len({lens.name for lens in one.lenses}) == len(one.lenses)
    for change in one.renamed:
        assert change.old != change.new


def test_the_page_of_dialects_is_up_to_date():
    assert (ROOT / "docs" / "dialects.md").read_text("utf-8") == page(), (
        "python -m lora_advise.dialects_page > docs/dialects.md"
    )


def test_asking_few_dialects_changes_nothing():
    """Over the development corpus, where it is there: the trainers that are not asked would not have known the file."""
    corpus = ROOT.parent / "shared" / "corpus"
    if not corpus.is_dir():
        pytest.skip("the development corpus (../shared/corpus) is not there")
    from lora_advise.dialects import _possible, recognise

    for path in sorted((corpus / "configs").rglob("*.*")):
        for config in read_document(path).configs:
            keys = {str(entry.path[0]) for entry in config.entries}
            scores = {name: dialect(name, config.shape).recognise(config) for name in names()}
            assert all(not score or _possible(name, config, keys) for name, score in scores.items()), path
            best = max(scores, key=lambda name: scores[name])
            found = recognise(config)
            assert (found.name if found else None) == (best if scores[best] else None), path
