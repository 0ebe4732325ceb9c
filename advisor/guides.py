"""What three popular guides would set for a plan, beside what the plan has, and why the two differ.

docs/evidence.md lists every statement. Here each is read for one concrete plan: it agrees when the plan's value lies in
the guide's range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lora_advise.facts import DataFacts, Facts, LoraFacts, ModelFacts, TaskFacts, TrainFacts
from lora_advise.guide_statements import guide_of, statements
from lora_advise.plan import Decision, GuideComparison, Plan
from lora_advise.report_words import counted

LITTLE_DATA = 1_000
"""Examples below which we read a guide's "little data"; the guides give no number (convention)."""
MUCH_DATA = 50_000
"""Examples from which we read "large data" (convention)."""

_ORDER = {"disagree": 0, "unsupported": 1, "refine": 2, "agree": 3}
_SIMPLE = {"classification", "extraction"}
_COMPLEX = {"math", "code"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


class _Remark(NamedTuple):
    """A statement read for one plan. ``meets`` is None where no value can settle it: then the general verdict holds."""

    id: str
    would_set: str
    we_have: str
    meets: bool | None
    more: str = ""


class _Case(NamedTuple):
    """What the checks look at; ``shown`` has the plan's values as its report prints them."""

    facts: Facts
    task: TaskFacts
    model: ModelFacts
    train: TrainFacts
    data: DataFacts
    shown: dict[str, str]

    def show(self, field: str, value: Any) -> str:
        """The value as the report prints it, else as it is."""
        return self.shown.get(field) or (f"{value:g}" if isinstance(value, float) else str(value))


def compare(plan: Plan, decisions: tuple[Decision, ...]) -> tuple[GuideComparison, ...]:
    """What the guides say of this plan's settings: disagreements first, statements that do not concern it left out."""
    facts = plan.facts
    if facts.task is None or facts.model is None or facts.train is None or facts.data is None:
        return ()
    case = _Case(facts, facts.task, facts.model, facts.train, facts.data, {d.field: d.shown for d in decisions})
    remarks = [remark for check in _CHECKS for remark in check(case)]
    order = list(statements())
    rows = [_comparison(remark) for remark in remarks]
    return tuple(sorted(rows, key=lambda row: (_ORDER[row.verdict], order.index(row.statement))))


def _comparison(remark: _Remark) -> GuideComparison:
    statement = statements()[remark.id]
    reason = statement.reason
    verdict = statement.verdict
    if remark.meets:
        verdict = "agree"
        if statement.verdict != "agree":
            reason = f"The values meet here. In general: {reason}"
    elif remark.meets is False and verdict == "agree":
        verdict = "disagree"
    return GuideComparison(
        statement=remark.id, guide=guide_of(remark.id), topic=statement.topic, says=remark.would_set,
        we_say=remark.we_have,
        verdict=verdict, reason=f"{reason} {remark.more}".rstrip(), sources=statement.sources,
    )  # fmt: skip


def _between(value: float, low: float, high: float) -> bool:
    return low * 0.999 <= value <= high * 1.001


def _dropout(case: _Case) -> Iterator[_Remark]:
    if case.facts.lora is None:
        return
    value, have = case.facts.lora.lora_dropout, case.show("lora.lora_dropout", case.facts.lora.lora_dropout)
    count = counted(case.data.examples, "example")
    if case.data.examples < LITTLE_DATA:
        yield _Remark(
            "S0.38",
            f"dropout 0.3 to 0.5 and a lower rank, because {count} are little data",
            have,
            _between(value, 0.3, 0.5),
        )
        yield _Remark("S1.21", f"dropout near 0.1, because {count} are little data", have, _between(value, 0.05, 0.2))
    elif case.data.examples >= MUCH_DATA:
        yield _Remark("S0.18", f"little or no dropout, because {count} are much", have, value <= 0.05)
    yield _Remark("S0.6", "dropout 0 to 0.5", have, _between(value, 0, 0.5))
    yield _Remark("S1.20", "dropout 0 to 0.2", have, _between(value, 0, 0.2))


def _rank(case: _Case) -> Iterator[_Remark]:
    if case.facts.lora is None:
        return
    r, have = case.facts.lora.r, f"r = {case.show('lora.r', case.facts.lora.r)}"
    yield _Remark("S0.1", "r = 2 to 64", have, _between(r, 2, 64))
    yield _Remark("S2.3", "r above 8 and below 64", have, 8 < r < 64)
    if r > 128:
        yield _Remark("S2.4", "r = 128 at most", have, False)
    if case.task.name in _SIMPLE:
        yield _Remark("S0.37", "start at r = 4 for a simple task", have, r == 4, "The guide's 4 and ours work alike.")
        yield _Remark("S1.9", "r = 4 to 8 for a simple task", have, _between(r, 4, 8))
    elif case.task.name in _COMPLEX:
        yield _Remark("S0.11", "r = 16 or 32 for a complex task", have, r in (16, 32))
        yield _Remark("S1.11", "r = 64 to 128 for complex reasoning", have, _between(r, 64, 128))
    elif case.task.name == "language-transfer":
        yield _Remark("S1.12", "r = 128 to 256 for language transfer", have, _between(r, 128, 256))
    else:
        yield _Remark("S0.11", "start at r = 8, 16 or 32 when complex", have, r in (8, 16, 32))
        yield _Remark("S1.10", "r = 16 to 32 for a medium task", have, _between(r, 16, 32))
    size = f"{case.model.billions:.3g}B"
    if 5 <= case.model.billions < 20:
        yield _Remark("S2.7", f"start at r = 4 or 8, because the model has {size}", have, r in (4, 8))
    elif 20 <= case.model.billions < 48:
        yield _Remark("S2.8", f"start at r = 16, because the model has {size}", have, r >= 16)
    elif 48 <= case.model.billions < 130:
        yield _Remark("S2.10", f"start at r = 24 or 32, because the model has {size}", have, r in (24, 32))


def _alpha(case: _Case) -> Iterator[_Remark]:
    lora = case.facts.lora
    if lora is None:
        return
    have = f"alpha = {lora.lora_alpha:g} at r = {lora.r}"
    yield _Remark("S0.2", "alpha = 1 to 256", have, _between(lora.lora_alpha, 1, 256))
    for number in ("S0.15", "S1.14"):
        yield _Remark(number, f"alpha = 2r = {2 * lora.r}", have, lora.lora_alpha == 2 * lora.r)
    yield _Remark("S2.5", f"alpha = r or 2r = {lora.r} or {2 * lora.r}", have, lora.lora_alpha in (lora.r, 2 * lora.r))
    yield _Remark(
        "S0.14",
        "keep alpha/r when r changes",
        f"keep alpha = {lora.lora_alpha:g} when r changes, and the rate with it",
        None,
    )
    start = "B zero, PEFT's default A" if lora.init_lora_weights is True else str(lora.init_lora_weights)
    yield _Remark("S0.28", "A Gaussian, B zero", start, lora.init_lora_weights in (True, "gaussian"))


def _targets(case: _Case) -> Iterator[_Remark]:
    lora = case.facts.lora
    if lora is None or case.model.kind == "encoder":
        return
    have = case.show("lora.target_modules", lora.target_modules)
    roles, names = _adapted(case.model, lora)
    for number, words in (("S0.4", "q_proj and v_proj"), ("S1.17", "at least q_proj and v_proj")):
        yield _Remark(number, words, have, names == {"q_proj", "v_proj"})
    yield _Remark("S1.18", "for balance q, k, v and o", have, names == _ATTENTION)
    yield _Remark("S0.39", "attention first, other modules later", have, "attention" in roles and "mlp" not in roles)
    yield _Remark("S1.19", "at most attention and the feed-forward layers", have, {"attention", "mlp"} <= roles)
    yield _Remark("S1.22", "bias none", f"bias {lora.bias}", lora.bias == "none")


def _adapted(model: ModelFacts, lora: LoraFacts) -> tuple[set[str], set[str]]:
    """Roles and names of the modules that get an adapter."""
    from lora_advise.adapters import targeted

    chosen = targeted(model, lora)
    return {module.role for module in chosen}, {module.name for module in chosen}


def _rate(case: _Case) -> Iterator[_Remark]:
    rate, have = case.train.learning_rate, case.show("train.learning_rate", case.train.learning_rate)
    if case.facts.method == "full":
        yield _Remark("S0.24", "about 1e-5 for full tuning", have, _between(rate, 5e-6, 2e-5))
        return
    low = {"preference": "preference training", "rl": "reinforcement learning"}.get(case.task.family)
    more = f"The guide does not tell tasks apart; {low} takes rates 20 to 60 times lower." if low else ""
    yield _Remark("S0.3", "1e-5 to 1e-3", have, _between(rate, 1e-5, 1e-3), more)
    yield _Remark("S0.40", "start at 1e-4 with alpha = 2r", have, _between(rate, 1e-4, 1e-4), more)
    if case.facts.method == "qlora":
        yield _Remark("S1.24", "5e-5 to 2e-4 with QLoRA", have, _between(rate, 5e-5, 2e-4), more)
    else:
        yield _Remark("S1.23", "1e-4 to 5e-4 with LoRA", have, _between(rate, 1e-4, 5e-4), more)


def _batch(case: _Case) -> Iterator[_Remark]:
    micro, steps, devices = (
        case.train.per_device_train_batch_size,
        case.train.gradient_accumulation_steps,
        case.facts.data_parallel,
    )
    effective = micro * steps * devices
    if 20 <= case.model.billions < 48:
        yield _Remark("S2.25", "8 or 16 per device for a 32B", f"{micro} per device", micro in (8, 16))
        yield _Remark("S2.27", "accumulate 1 or 2 steps for a 32B", counted(steps, "step"), steps in (1, 2))
    would = effective / micro
    ours = f"{steps} = {effective} / ({micro} x {devices} device{'s' if devices > 1 else ''})"
    yield _Remark("S2.28", f"accumulate {effective} / {micro} = {counted(would, 'step')}", ours, would == steps)
    product = f"{effective} = {micro} x {steps} x {devices}"
    yield _Remark("S2.30", "effective batch = per device x accumulation x GPUs", product, True)


def _schedule(case: _Case) -> Iterator[_Remark]:
    epochs = case.train.num_train_epochs
    if case.train.max_steps is None and case.task.family != "rl":
        yield _Remark("S2.31", "1 to 3 epochs", case.show("train.num_train_epochs", epochs), _between(epochs, 1, 3))
    patience = case.train.early_stopping_patience
    yield _Remark(
        "S0.35",
        "early stopping",
        f"early stopping after {patience} evaluations" if patience else "no early stopping",
        bool(patience),
    )
    optim = f"{case.train.optim}, weight decay {case.train.weight_decay:g}"
    yield _Remark(
        "S0.34",
        "AdamW with weight decay",
        optim,
        "adamw" in case.train.optim,
        "" if case.train.weight_decay else "Here it is 0.",
    )


def _data(case: _Case) -> Iterator[_Remark]:
    if case.task.name == "knowledge-injection":
        yield _Remark(
            "S2.12", "3,000 to 5,000 examples do for knowledge injection", case.show("gate", "retrieval first"), None
        )
    if case.task.family not in ("sft", "classification"):
        return
    have = f"{counted(case.data.examples, 'example')} here"
    for low, high, number, needed in (
        (5, 20, "S2.11", (3_000, 5_000)),
        (20, 48, "S2.13", (5_000, 10_000)),
        (48, 130, "S2.14", (10_000, 20_000)),
    ):
        if low <= case.model.billions < high:
            words = f"{needed[0]:,} to {needed[1]:,} examples for a model of {case.model.billions:.3g}B"
            yield _Remark(number, words, have, case.data.examples >= needed[0])


def _method(case: _Case) -> Iterator[_Remark]:
    method = {"lora": "16-bit LoRA", "qlora": "QLoRA", "full": "full tuning"}[case.facts.method]
    if case.model.billions <= 3 and case.model.kind != "encoder":
        yield _Remark("S1.3", "QLoRA for the least memory", method, None)
    if case.facts.method != "full":
        yield _Remark("S1.6", "LoRA with resources, QLoRA where memory is short", method, True)
    quant = case.facts.quant
    if case.facts.method == "qlora" and quant is not None:
        twice = "on" if quant.bnb_4bit_use_double_quant else "off"
        have = f"{quant.bnb_4bit_quant_type}, {quant.bnb_4bit_compute_dtype}, double quantization {twice}"
        meets = (
            quant.bnb_4bit_quant_type == "nf4"
            and quant.bnb_4bit_use_double_quant
            and quant.bnb_4bit_compute_dtype != "float32"
        )
        yield _Remark("S1.8", "NF4, 16-bit compute, double quantization", have, meets)


_CHECKS: tuple[Callable[[_Case], Iterator[_Remark]], ...] = (
    _dropout, _rank, _alpha, _targets, _rate, _batch, _schedule, _data, _method,
)  # fmt: skip
