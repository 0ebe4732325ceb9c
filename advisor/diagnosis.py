"""What a training run says of itself: healthy, unstable, overfit, underfit, or not enough to tell.

The verdict is the first of an ordered list of findings; every other finding is shown beside it. Overfitting is never
claimed from the training loss alone.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Literal, NamedTuple

from lora_advise.engine import lint
from lora_advise.facts import Facts
from lora_advise.finding import Confidence, Finding, Severity
from lora_advise.plan import FindingView
from lora_advise.prescribe import Case, Proposal
from lora_advise.run_facts import Run
from lora_advise.section import Section
from lora_advise.signal_budget import gain
from lora_advise.signal_curves import Curves, curves

if TYPE_CHECKING:
    from rich.console import Console

DIAGNOSIS_VERSION = 1
"""Version of the JSON form; raised when a field changes its meaning."""

Verdict = Literal["healthy", "unstable", "overfit", "underfit", "cannot tell"]
Sureness = Literal["high", "medium", "low"]


class RunFinding(FindingView):
    """A finding with the step at which it starts."""

    step: int | None = None


class Diagnosis(Section):
    """The judgement of one run."""

    version: int = DIAGNOSIS_VERSION
    verdict: Verdict
    cause: str | None = None
    """Why, as a stable word: ``lr_restart``, ``eval_rise``, ``too_short``, or ``suspicious: ...`` for a bug in data or
    pipeline."""
    confidence: Sureness
    step: int | None = None
    """Where the trouble starts; for overfitting the minimum of the evaluation loss."""
    summary: str
    findings: tuple[RunFinding, ...] = ()
    changes: tuple[Proposal, ...] = ()
    """In order: make the first, rerun, compare."""
    log_next: tuple[str, ...] = ()
    """What the log did not show and the next one should."""
    evidence: tuple[str, ...] = ()
    """Which curves were read, and how much of them."""
    gain_per_doubling: float | None = None
    """Relative fall of the loss that twice the budget promises."""

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 a trouble was found, 2 cannot tell."""
        return {"healthy": 0, "cannot tell": 2}.get(self.verdict, 1)


class _Step(NamedTuple):
    """One line of the decision list: these rules, from this severity on, mean that verdict."""

    rules: tuple[str, ...]
    least: Severity
    verdict: Verdict
    cause: str


_WEIGHT = {Severity.NOTE: 0, Severity.WARNING: 1, Severity.ERROR: 2}
_NOTE, _WARNING, _ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR

DECISIONS = (
    _Step(("labels-trivial",), _WARNING, "cannot tell", "suspicious: trivial labels"),
    _Step(("loss-contradicts-accuracy",), _WARNING, "cannot tell", "suspicious: loss normalisation"),
    _Step(
        ("adapter-frozen", "loss-repeats", "learning-rate-zero"),
        _WARNING,
        "cannot tell",
        "suspicious: no weight changes",
    ),
    _Step(("gradient-zero",), _ERROR, "cannot tell", "suspicious: no weight changes"),
    _Step(("loss-not-finite", "loss-reads-zero", "gradient-nan"), _WARNING, "unstable", "numerics"),
    _Step(("eval-loss-nan",), _WARNING, "cannot tell", "suspicious: evaluation is NaN"),
    _Step(("loss-diverges",), _WARNING, "unstable", "divergence"),
    _Step(("loss-spikes",), _WARNING, "unstable", "loss_spikes"),
    _Step(("gradient-explodes",), _WARNING, "unstable", "gradient_explosion"),
    _Step(("eval-loss-swings",), _WARNING, "unstable", "eval_oscillation"),
    _Step(("eval-loss-rises",), _WARNING, "overfit", "eval_rise"),
    _Step(("log-too-short",), _NOTE, "cannot tell", "too_short"),
    _Step(("learning-rate-too-high",), _WARNING, "unstable", "lr_too_high"),
    _Step(("rows-repeat-within-epoch",), _WARNING, "cannot tell", "suspicious: duplicated rows"),
    _Step(("eval-loss-rises",), _NOTE, "overfit", "eval_rise: mild"),
    _Step(("training-set-memorised",), _WARNING, "cannot tell", "memorised: not evaluated"),
    _Step(("eval-far-above-train",), _WARNING, "overfit", "gap"),
    _Step(("learning-rate-restarts",), _WARNING, "unstable", "lr_restart"),
    _Step(("loss-not-a-likelihood",), _NOTE, "cannot tell", "not_a_likelihood"),
    _Step(("loss-still-falls",), _WARNING, "underfit", "stopped_early"),
    _Step(("loss-hardly-moves",), _WARNING, "underfit", "hardly_moves"),
    _Step(("few-updates",), _WARNING, "underfit", "few_updates"),
)
"""First hit decides. Bugs of data and pipeline come before numerics, these before the shape of the curves, and a log
that is too short is said before anything that needs length."""

_LOW = {"gap", "eval_rise: mild", "few_updates"}


def diagnose(facts: Facts | None, run: Run) -> Diagnosis:
    """Judge a run by its log. ``facts`` of the plan, when known, put numbers into the proposed changes."""
    from lora_advise.prescribe_changes import PRESCRIPTIONS
    from lora_advise.rules.run_rules import RUN_RULES

    known, c = facts or Facts(), curves(run)
    findings = lint(known, RUN_RULES, run=run, pedantic=True).findings
    verdict, cause, decisive = _decide(findings, c, run)
    prescribe = PRESCRIPTIONS.get(cause or "")
    promised = gain(c)
    return Diagnosis(
        verdict=verdict,
        cause=cause,
        confidence=_sureness(verdict, cause, decisive, c),
        step=decisive.step if decisive else None,
        summary=_summary(verdict, cause, decisive, c, run),
        findings=tuple(_view(f) for f in findings),
        changes=tuple(prescribe(Case(known, run, c, decisive))) if prescribe else (),
        log_next=_log_next(c),
        evidence=_evidence(c, run),
        gain_per_doubling=round(promised.estimate, 4) if promised and not c.too_short else None,
    )


def _decide(findings: tuple[Finding, ...], c: Curves, run: Run) -> tuple[Verdict, str | None, Finding | None]:
    """The first line of the decision list that has a finding; healthy only with enough entries to say so."""
    for line in DECISIONS:
        for finding in findings:
            if finding.rule in line.rules and _WEIGHT[finding.severity] >= _WEIGHT[line.least]:
                return line.verdict, line.cause, finding
    if run.outcome == "failed":
        return "cannot tell", "failed", None
    if c.count < 10 and len(c.evaluations[1]) < 3:
        return "cannot tell", "too_few_points", None
    return "healthy", None, None


def _sureness(verdict: Verdict, cause: str | None, decisive: Finding | None, c: Curves) -> Sureness:
    """High for what is proven, or seen in at least three evaluations; low for gaps, mild rises and short logs."""
    if decisive is not None and decisive.confidence is Confidence.FACT:
        return "high"
    evaluated = len(c.evaluations[1]) >= 3
    if cause in _LOW or (verdict == "healthy" and not evaluated and c.count < 20):
        return "low"
    if cause == "too_short" or (evaluated and verdict in ("healthy", "overfit")):
        return "high"
    return "medium"


def _summary(verdict: Verdict, cause: str | None, decisive: Finding | None, c: Curves, run: Run) -> str:
    """One sentence with the decisive numbers."""
    name = verdict.capitalize()
    if decisive is not None:
        return f"{name} ({cause}): {decisive.message[0].lower()}{decisive.message[1:]}"
    if cause == "failed":
        return f"{name} (failed): the run failed before its end{': ' + run.message if run.message else '.'}"
    if cause == "too_few_points":
        return (
            f"{name} ({cause}): {c.count} training losses and {len(c.evaluations[1])} evaluations show no "
            "trouble and no proof of health."
        )
    steps, losses = c.evaluations
    first = next((v for v in c.shape.loss if isfinite(v)), 0.0)
    words = f"{name}: the training loss went from {first:.3g} to {c.tail_loss:.3g} in {c.last_step} steps"
    if not losses:
        return f"{words}; nothing was evaluated, so overfitting would not show."
    low = min(range(len(losses)), key=losses.__getitem__)
    return f"{words}, and the evaluation loss ends at {losses[-1]:.4g} (lowest {losses[low]:.4g} at step {steps[low]})."


def _view(finding: Finding) -> RunFinding:
    return RunFinding(
        rule=finding.rule, code=finding.code, severity=finding.severity.value, confidence=finding.confidence.value,
        message=finding.message, fields=finding.fields, sources=finding.sources, step=finding.step,
    )  # fmt: skip


def _log_next(c: Curves) -> tuple[str, ...]:
    """What this log lacks, each as a sentence."""
    steps = c.planned_steps or c.last_step
    missing = []
    if len(c.evaluations[1]) < min(6, steps or 6):
        missing.append(
            f"Evaluate about eight times per run (eval_steps {max(1, steps // 8)}) on at least 200 held-out rows."
        )
    if c.count < min(25, steps or 25):
        missing.append(f"Log the training loss about fifty times per run (logging_steps {max(1, steps // 50)}).")
    if not c.rates_known:
        missing.append("Log the learning rate: without it a schedule at fault cannot be told from data at fault.")
    if not any(c.grad_logged):
        missing.append("Log the gradient norm: it tells a bad batch from a bad rate.")
    return tuple(missing)


def _evidence(c: Curves, run: Run) -> tuple[str, ...]:
    """The curves that were read, with their number of points."""
    read = []
    if c.count:
        read.append(
            f"training loss: {c.count} entries, steps {c.raw.step[0]} to {c.raw.step[-1]}, noise {c.noise:.1%} of "
            "its value"
        )
    if c.eval_loss:
        read.append(f"evaluation loss: {len(c.eval_loss)} entries")
    if c.rates_known:
        read.append("learning rate")
    if any(c.grad_logged):
        read.append("gradient norm")
    if any(map(isfinite, c.accuracy)):
        read.append("token accuracy")
    if run.signals:
        read.append(f"adapter norms: {len(run.signals)} entries")
    return tuple(read)


def report_text(diagnosis: Diagnosis, console: Console) -> None:
    """Print the diagnosis; nothing in it is read as markup."""
    from lora_advise.report_diagnosis import print_diagnosis

    print_diagnosis(diagnosis, console)
