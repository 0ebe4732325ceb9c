"""Agreement with people's labels on real logs.

In-sample: the thresholds were set while looking at logs of these projects. The figures guard against getting worse;
they are no estimate for unseen logs.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from lora_advise.diagnosis import Diagnosis, diagnose
from lora_advise.run_facts import read_run
from lora_advise.section import to_json

CORPUS = Path(__file__).resolve().parent.parent / ".." / "shared" / "corpus"

pytestmark = pytest.mark.skipif(
    not (CORPUS / "labels.jsonl").is_file(), reason="the corpus of labelled logs lies beside the repository, not in it"
)

REACHED = {"healthy": 13, "underfit": 5, "overfit": 4, "unstable": 4, "lr_mistake": 2, "suspicious": 3, "too_short": 3}
"""Scored logs that agree, of 13, 9, 5, 4, 3, 3 and 3. Missed: four underfits that are bound by capacity or have seven
points, one rate mistake without a logged rate, and one "overfit" from the training loss alone, which we decline to
call so."""


def agrees(label: str, found: Diagnosis) -> bool:
    cause = found.cause or ""
    if label == "lr_mistake":
        return cause.startswith("lr_")
    if label == "suspicious":
        return cause.startswith("suspicious")
    if label == "too_short":
        return found.verdict == "cannot tell" and cause.startswith("too_")
    return found.verdict == label


def scored() -> list[tuple[str, Diagnosis, dict[str, object]]]:
    rows = [json.loads(line) for line in (CORPUS / "labels.jsonl").read_text("utf-8").splitlines()]
    return [(row["label"], diagnose(None, read_run(CORPUS / row["file"])), row) for row in rows if row["scored"]]


def test_agreement_with_the_labels_does_not_fall(capsys: pytest.CaptureFixture[str]) -> None:
    rows = scored()
    total = Counter(label for label, _, _ in rows)
    good = Counter(label for label, found, _ in rows if agrees(label, found))
    with capsys.disabled():
        print(
            f"\nagreement {sum(good.values())}/{sum(total.values())}: "
            + ", ".join(f"{k} {good[k]}/{n}" for k, n in total.items())
        )
    assert all(good[label] >= count for label, count in REACHED.items())
    healthy = [found for label, found, _ in rows if label == "healthy"]
    assert all(found.verdict == "healthy" for found in healthy), "a false alarm costs more than a miss"


def test_every_log_of_the_corpus_can_be_told_in_words_and_json() -> None:
    for path in sorted((CORPUS / "logs").glob("*.json")):
        found = diagnose(None, read_run(path))
        assert json.loads(to_json(found))["summary"]
        assert found.verdict == "healthy" or found.changes or found.cause in ("not_a_likelihood", "failed"), path.name
