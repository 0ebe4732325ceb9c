"""What the advisor answers: a plan that can be run, the decisions behind it, and everything that a report shows."""

from typing import Any, Literal

from lora_advise.facts import GIB, Facts, Method, Origin
from lora_advise.section import Section, field

PLAN_VERSION = 1
"""Version of the plan file and of the JSON report; raised when a field changes its meaning."""

Confidence = Literal["measured", "derived", "convention"]
"""measured: a table or paper shows it; derived: follows by arithmetic from known facts; convention: common practice."""

Fit = Literal["fits", "tight", "does not fit"]


class Override(Section):
    """A choice that the user made instead of ours."""

    field: str
    value: Any
    because: str | None = None


class Plan(Section):
    """Everything that a run needs: written by ``--emit``, read back by ``run``, ``lint`` and ``render``."""

    version: int = PLAN_VERSION
    facts: Facts
    origins: dict[str, Origin] = field(default_factory=dict)
    """Field path (``data.examples``) to where its value came from; paths not named are ``decided``."""
    overrides: tuple[Override, ...] = ()
    profile: Literal["safe", "balanced"] = "balanced"


class Decision(Section):
    """One choice of the plan, with what an expert asks about it.

    ``field`` is a path into :class:`Facts` (``lora.r``) or a topic of its own (``gate``, ``sweep``). ``topic`` groups
    decisions in reports and in the plan file.
    """

    field: str
    topic: Literal["purpose", "method", "adapter", "rate", "batch", "data", "precision", "evaluation", "next"]
    label: str
    value: Any
    shown: str
    """The value as a person reads it: ``2e-4``, ``all linear layers``, ``16 = 4 x 4 x 1``."""
    sweep: tuple[Any, ...] | None = None
    """Values (or the two ends of an interval) worth trying."""
    because: str
    sources: tuple[str, ...]
    confidence: Confidence
    flips: str
    """What would change the choice."""
    advised: Any = None
    """What we would have chosen, when the user overrode it."""
    override_reason: str | None = None
    overridden: bool = False


class MemoryPart(Section):
    """One term of the memory of a training step, bytes on one device."""

    name: str
    label: str
    bytes: int
    note: str = ""


class MemoryEstimate(Section):
    """Predicted peak of one training step on one device of a named stack. All figures in bytes."""

    stack: str
    method: Method
    parts: tuple[MemoryPart, ...]
    """Terms alive at the peak; they add up to ``allocated``."""
    peak_stage: str
    allocated: int
    """What torch.cuda.max_memory_allocated will show."""
    reserved: tuple[int, int]
    """Band for torch.cuda.max_memory_reserved."""
    device: tuple[int, int]
    """Band for what nvidia-smi will show: reserved plus the CUDA context."""
    adapter_params: int
    adapter_file: int
    checkpoint_disk: int = 0
    """One checkpoint on disk: trained weights and optimizer states, without the tokenizer's files."""
    checkpoints_kept: int = 0
    """Checkpoints that lie on the disk at once, at most."""
    host_load: int
    """Host memory that loading the base model touches: its files in the page cache, and ``host_copy``."""
    host_copy: int = 0
    """The part of ``host_load`` that must be held; the rest the system may drop again."""
    sources: tuple[str, ...] = ()


class WayOut(Section):
    """One change that lowers the memory, with what it costs."""

    change: str
    saves: int
    """Bytes saved on one device; 0 for a device that has more."""
    costs: str
    enough: bool
    """Whether the run fits after this and every change listed before it."""
    values: dict[str, Any] = field(default_factory=dict)
    """Field paths and values that make the change."""


class MemoryVerdict(Section):
    """Does one method fit one kind of device?"""

    method: Method
    hardware: str
    count: int = 1
    memory_gib: float
    usable: int
    """Bytes of one device that a run may use."""
    fit: Fit
    estimate: MemoryEstimate
    micro_batch: int
    """Largest power of two that fits with the plan's length; 0 when not even one sequence fits."""
    longest: int
    """Longest sequence in tokens that fits at micro-batch 1; 0 when none does."""
    sharding: str = "none"
    ways_out: tuple[WayOut, ...] = ()

    @property
    def needs(self) -> str:
        """The peak against the device, in words without a full stop."""
        low, high = (n / GIB for n in self.estimate.device)
        peak = f"{low:.1f} to {high:.1f} GiB are needed at the peak ({self.estimate.peak_stage})"
        return f"{peak}, {self.hardware} has {self.memory_gib:.1f} GiB"


class TimePart(Section):
    """One term of an optimizer step's time, in seconds at the device's stated rates."""

    name: str
    label: str
    seconds: float


class TimeEstimate(Section):
    """How long the run takes. Pairs are bands, the smaller figure first; tokens include padding."""

    rate: tuple[float, float]
    """Tokens per second and device."""
    rate_all: tuple[float, float]
    """Tokens per second of all data-parallel devices together."""
    step_tokens: int
    """Tokens that all devices compute in an optimizer step."""
    step_seconds: tuple[float, float]
    steps: int | None
    hours: tuple[float, float] | None
    """Of the whole run, evaluation included; None when the number of steps is not known."""
    devices: int
    evaluation_batches: int
    """Evaluation batches of one device over the whole run."""
    evaluation_seconds: tuple[float, float]
    """Seconds of one evaluation batch."""
    efficiency: tuple[float, float]
    """Share of the device's stated rates that training is taken to reach."""
    efficiency_of: str
    """The class of devices that the band is for, and what it was set on."""
    parts: tuple[TimePart, ...]
    limit: str
    """What a step mostly waits for."""
    assumptions: tuple[str, ...] = ()
    price: float | None = None
    """What one device costs in an hour, as the user gave it."""
    cost: tuple[float, float] | None = None
    """Of the whole run on all devices, in the currency of the price."""
    sources: tuple[str, ...] = ()


class StepBudget(Section):
    """The step budget as a line of its own."""

    examples: int
    rows: int
    micro_batch: int
    accumulation: int
    devices: int
    effective_batch: int
    epochs: float
    steps: int
    warmup_steps: int
    eval_every: int | None
    tokens: int
    """Tokens that the run sees in all, padding not counted."""
    supervised_tokens: int
    """Tokens that carry loss, over one pass."""


class GuideComparison(Section):
    """What a seed guide says beside what we say."""

    statement: str
    """Id of the statement in docs/evidence.md, such as ``S0.38``."""
    guide: str
    topic: str
    says: str
    we_say: str
    verdict: Literal["agree", "refine", "disagree", "unsupported"]
    reason: str
    sources: tuple[str, ...]


class Note(Section):
    """A sentence that the user must see before the settings: a warning, an assumption, a better way."""

    kind: Literal["warning", "assumption", "advice"]
    text: str
    sources: tuple[str, ...] = ()


class FindingView(Section):
    """A finding of the linter as reports show it."""

    rule: str
    code: str
    severity: Literal["error", "warning", "note"]
    confidence: Literal["fact", "measured", "convention"]
    message: str
    fields: tuple[str, ...] = ()
    fix: str | None = None
    sources: tuple[str, ...] = ()


class Advice(Section):
    """The full answer: what ``advise`` returns and what every report shows."""

    version: int = PLAN_VERSION
    tool_version: str
    command: str
    """The command that gives this answer again."""
    plan: Plan
    decisions: tuple[Decision, ...]
    steps: StepBudget
    memory: tuple[MemoryVerdict, ...]
    """The chosen device first, each method; or every card of the table when no device is known."""
    notes: tuple[Note, ...] = ()
    guides: tuple[GuideComparison, ...] = ()
    findings: tuple[FindingView, ...] = ()
    skipped_rules: tuple[str, ...] = ()
    related_models: tuple[str, ...] = ()
    """Other models that the question could have meant."""
    next_steps: tuple[str, ...] = ()
    time: TimeEstimate | None = None
    no_time: str = ""
    """Why there is no time, in a sentence."""

    @property
    def facts(self) -> Facts:
        """The facts of the plan."""
        return self.plan.facts

    def decision(self, field: str) -> Decision:
        """The decision on that field. Raises KeyError when the plan has none."""
        for decision in self.decisions:
            if decision.field == field:
                return decision
        raise KeyError(field)

    def _repr_html_(self) -> str:
        """How a notebook shows the advice."""
        from lora_advise.report_html import fragment

        return fragment(self)
