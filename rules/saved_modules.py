"""Rules about what is trained beside the adapter: heads, embeddings, token rows, biases, expert parameters."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.adapter_limits import NEW_HEADS
from lora_advise.facts import Facts, LoraFacts, ModelFacts, TaskFacts
from lora_advise.finding import Change, Confidence, Hit, Severity
from lora_advise.rule import rule
from lora_advise.rules.rate import EMBEDDING_NAMES
from lora_advise.rules.targets import adapted, matches

FORMER_NAMES = {"gpt_neox": {"embed_out": ("lm_head", (5,))}}
"""By model type: names that modules had before a version of transformers, with the name that they have since."""
_USUAL = ("score", "classifier", "classification_head", "qa_outputs", "v_head", "head", "value_head")
HEADS = tuple(dict.fromkeys((*_USUAL, *(name for names in NEW_HEADS.values() for name in names))))
"""Names of the new heads that transformers adds to a base model."""


@rule("expert-rank-large", "TGT308", Severity.WARNING, Confidence.MEASURED, ("lwr-2025", "peft-code"))
def expert_rank_large(model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """Every expert of a mixture gets the full rank.

    Why: the adapter grows with the number of experts, while each of them sees only its share of the tokens. Rank
        divided by
        the number of active experts keeps the parameters that a token meets.
    Example:
        model: mixture-of-experts
        lora: {r: 64, target_modules: [q_proj, k_proj, v_proj, o_proj], target_parameters: [mlp.experts.gate_up_proj]}
        hardware: null
    Instead:
        model: mixture-of-experts
        lora: {r: 8, target_modules: [q_proj, k_proj, v_proj, o_proj], target_parameters: [mlp.experts.gate_up_proj]}
        hardware: null
    Evidence: the convention under which rank results carried over to mixtures of experts.
    Known problems: PEFT's own advice divides by all experts; the two are not compared anywhere.
    """
    if not lora.target_parameters or not model.num_experts or lora.r < 32:
        return
    rank = max(1, lora.r // (model.num_experts_per_tok or 8))
    yield Hit(
        f"Each of the {model.num_experts} experts would get rank {lora.r}: divide by the "
        f"{model.num_experts_per_tok or 8} that are "
        f"active per token, r {rank}.",
        ("lora.r", "lora.target_parameters"),
        (Change("lora.r", rank),),
    )


@rule("dropout-on-expert-parameters", "TGT309", Severity.ERROR, Confidence.FACT, ("peft-code",))
def dropout_on_expert_parameters(lora: LoraFacts, facts: Facts) -> Iterator[Hit]:
    """Dropout or DoRA is asked for on expert parameters, where PEFT refuses it.

    Why: adapters on bare parameters change the weight itself and never see the input that dropout would act on.
    Example:
        model: mixture-of-experts
        lora: {target_modules: [q_proj, v_proj], target_parameters: [mlp.experts.gate_up_proj], lora_dropout: 0.05}
        hardware: null
    Instead:
        model: mixture-of-experts
        lora: {target_modules: [q_proj, v_proj], target_parameters: [mlp.experts.gate_up_proj], lora_dropout: 0.0}
        hardware: null
    Evidence: PEFT's ParamWrapper raises.
    Known problems: the names of all linear layers mean experts too for the models that PEFT converts, from transformers 5 on;
        while the version is not known that is a warning. Axolotl and Unsloth turn dropout off for experts themselves.
    """
    named = bool(lora.target_parameters)
    if not (lora.lora_dropout > 0 or lora.use_dora) or not (named or _reaches_experts(lora, facts)):
        return
    wrong = [("lora.lora_dropout", 0.0)] if lora.lora_dropout > 0 else []
    wrong += [("lora.use_dora", False)] if lora.use_dora else []
    if wrong:
        names = " and ".join(field.rsplit(".", 1)[-1] for field, _ in wrong)
        what = (
            "target_parameters cannot"
            if named
            else "target_modules reaches the experts, which are parameters: they cannot"
        )
        yield Hit(
            f"{what} be combined with {names}: PEFT raises after the model has been loaded.",
            tuple(field for field, _ in wrong),
            tuple(Change(field, value) for field, value in wrong),
            None if named or version_of(facts, "transformers") >= (5,) else Severity.WARNING,
        )


def _reaches_experts(lora: LoraFacts, facts: Facts) -> bool:
    """Whether PEFT makes expert parameters of the names of modules, as it does from transformers 5 on."""
    framework = facts.stack.framework if facts.stack is not None else ""
    if facts.model is None or framework in ("axolotl", "unsloth") or () < version_of(facts, "transformers") < (5,):
        return False
    return any(m.kind == "parameter" and m.role == "expert" for m in adapted(facts.model, lora))


@rule("tied-embeddings-untied", "TGT310", Severity.WARNING, Confidence.FACT, ("peft-code",))
def tied_embeddings_untied(model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """Embeddings or head of a model with tied embeddings are trained without keeping them tied.

    Why: input embedding and output head are one matrix. Trained as a copy they drift apart, and a merge or a reload
        throws one
        of the two away.
    Example:
        model: small
        lora: {modules_to_save: [embed_tokens]}
        train: {embedding_learning_rate: 0.00003}
        hardware: null
    Instead:
        model: small
        lora: {modules_to_save: [embed_tokens], ensure_weight_tying: true}
        train: {embedding_learning_rate: 0.00003}
        hardware: null
    Evidence: PEFT warns; separate storage was measured.
    Known problems: none when the adapter is only ever used unmerged with the same versions.
    """
    if not model.tie_word_embeddings or lora.ensure_weight_tying:
        return
    targets = () if isinstance(lora.target_modules, str) else lora.target_modules
    hit = [n for n in (*lora.modules_to_save, *targets) if n.rsplit(".", 1)[-1] in EMBEDDING_NAMES]
    if hit:
        yield Hit(
            f"{model.name} ties its embeddings, but {' and '.join(dict.fromkeys(hit))} would be trained as a copy: "
            "set ensure_weight_tying to true.",
            ("lora.ensure_weight_tying",),
            (Change("lora.ensure_weight_tying", True),),
        )


@rule("module-targeted-and-saved", "TGT311", Severity.WARNING, Confidence.FACT, ("peft-code",))
def module_targeted_and_saved(lora: LoraFacts) -> Iterator[Hit]:
    """A module is both adapted and trained in full.

    Why: modules_to_save wins in silence; the adapter on that module never exists.
    Example:
        lora: {target_modules: [q_proj, v_proj, up_proj, down_proj], modules_to_save: [embed_tokens, down_proj]}
        train: {embedding_learning_rate: 0.00003}
        hardware: null
    Instead:
        lora: {target_modules: [q_proj, v_proj, up_proj, down_proj], modules_to_save: [embed_tokens]}
        train: {embedding_learning_rate: 0.00003}
        hardware: null
    Evidence: measured with PEFT.
    Known problems: patterns are not compared.
    """
    if isinstance(lora.target_modules, str):
        return
    both = [name for name in lora.modules_to_save if name in lora.target_modules]
    if both:
        yield Hit(
            f"{', '.join(both)} stands in target_modules and in modules_to_save: it is trained in full, without an "
            "adapter.",
            ("lora.modules_to_save", "lora.target_modules"),
            (Change("lora.modules_to_save", tuple(n for n in lora.modules_to_save if n not in both)),),
        )


def _formerly(name: str, model: ModelFacts, facts: Facts) -> bool:
    """Whether the model had a module of that name in versions of transformers that may be meant."""
    former = FORMER_NAMES.get(model.model_type, {}).get(name.rsplit(".", 1)[-1])
    return former is not None and version_of(facts, "transformers") < former[1]


def version_of(facts: Facts, library: str) -> tuple[int, ...]:
    """The first numbers of a library's version; empty, which is below every other, where it is not known."""
    stated = facts.stack.versions.get(library, "") if facts.stack is not None else ""
    return tuple(int(part) for part in stated.split(".")[:2] if part.isdigit())


@rule("saved-module-unknown", "TGT312", Severity.ERROR, Confidence.FACT, ("peft-code",))
def saved_module_unknown(task: TaskFacts, model: ModelFacts, lora: LoraFacts, facts: Facts) -> Iterator[Hit]:
    """A name in modules_to_save is no module of the model.

    Why: PEFT matches the names at the end of paths and says nothing when none matches: what was to be trained stays
        frozen.
    Example:
        lora: {modules_to_save: [wte]}
        train: {embedding_learning_rate: 0.00003}
    Instead:
        lora: {modules_to_save: [embed_tokens]}
        train: {embedding_learning_rate: 0.00003}
        hardware: null
    Evidence: measured with PEFT.
    Known problems: a new head is accepted by name for classification and reward tasks. Norms are not in the module
        table and are accepted by name. A name that a module had in older versions of transformers is accepted while the
        version is not known to be newer.
    """
    known = HEADS if task.family in ("classification", "reward", "rl") else ()
    missing = [
        n for n in lora.modules_to_save
        if n.rsplit(".", 1)[-1] not in known and "norm" not in n and not _formerly(n, model, facts) and not any(matches(m, n) or f".{n}." in f".{m.path}"
        for m in model.modules)
    ]  # fmt: skip
    if missing:
        names = [m.name for m in model.with_role("embedding", "lm_head", "head")]
        yield Hit(
            f"{', '.join(missing)} of modules_to_save is no module of {model.name}, so nothing of that name is trained"
            + (f"; it has {', '.join(dict.fromkeys(names))}." if names else "."),
            ("lora.modules_to_save",),
            (Change("lora.modules_to_save", tuple(n for n in lora.modules_to_save if n not in missing)),),
        )


@rule("new-head-frozen", "TGT313", Severity.ERROR, Confidence.FACT, ("peft-code",))
def new_head_frozen(task: TaskFacts, model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """A new classification or reward head starts random and is never trained.

    Why: PEFT trains the head by itself only when task_type says SEQ_CLS or TOKEN_CLS; otherwise it must stand in
        modules_to_save.
    Example:
        task: {name: reward, family: reward, trainer: reward}
        data: {format: preference}
        train: {learning_rate: 0.0001}
    Instead:
        task: {name: reward, family: reward, trainer: reward}
        data: {format: preference}
        train: {learning_rate: 0.0001}
        lora: {task_type: SEQ_CLS, modules_to_save: [score]}
    Evidence: PEFT adds classifier and score to modules_to_save for these task types only.
    Known problems: none.
    """
    if task.trainer not in ("classification", "reward") or lora.task_type in ("SEQ_CLS", "TOKEN_CLS"):
        return
    if any(name.rsplit(".", 1)[-1] in HEADS for name in lora.modules_to_save):
        return
    # The head of the published model is that of its pretraining, which the new one takes the place of.
    own = (m.path.split(".")[0] for m in model.with_role("head"))
    head = next((name for name in own if name in HEADS), "classifier" if model.kind == "encoder" else "score")
    yield Hit(
        f"The head of this {task.family} model is new and random, and task_type {lora.task_type or 'unset'} leaves it "
        f"frozen: set task_type to SEQ_CLS and put {head} into modules_to_save.",
        ("lora.modules_to_save", "lora.task_type"),
        (Change("lora.task_type", "SEQ_CLS"), Change("lora.modules_to_save", (*lora.modules_to_save, head))),
    )


@rule("bias-without-biases", "TGT314", Severity.NOTE, Confidence.FACT, ("peft-code",))
def bias_without_biases(model: ModelFacts, lora: LoraFacts) -> Iterator[Hit]:
    """Biases are to be trained, but the model has none.

    Why: bias "all" and "lora_only" select existing bias vectors; where there are none, the setting does nothing.
    Example:
        lora: {bias: lora_only}
    Instead:
        lora: {bias: none}
    Evidence: the module table of the model.
    Known problems: biases of normalization layers are not in the table; models that have these have others too.
    """
    if lora.bias != "none" and not any(m.bias for m in model.modules) and model.kind != "encoder":
        yield Hit(
            f"bias is {lora.bias}, but {model.name} has no biases: the setting does nothing.",
            ("lora.bias",),
            (Change("lora.bias", "none", safe=True),),
        )


@rule("token-rows-and-whole-embedding", "TGT315", Severity.ERROR, Confidence.FACT, ("peft-code",))
def token_rows_and_whole_embedding(lora: LoraFacts) -> Iterator[Hit]:
    """Single token rows and the whole embedding matrix are both to be trained.

    Why: trainable_token_indices wraps the embedding that modules_to_save would copy; PEFT refuses the pair.
    Example:
        lora: {trainable_token_indices: [128000], modules_to_save: [embed_tokens]}
        train: {embedding_learning_rate: 0.00003}
        hardware: null
    Instead:
        lora: {trainable_token_indices: [128000]}
        hardware: null
    Evidence: PEFT's injection of token adapters.
    Known problems: none.
    """
    both = [
        n
        for n in lora.modules_to_save
        if n.rsplit(".", 1)[-1] in EMBEDDING_NAMES and "head" not in n and "out" not in n
    ]
    if lora.trainable_token_indices and both:
        yield Hit(
            f"trainable_token_indices trains single rows ({len(lora.trainable_token_indices)}) of an embedding that "
            f"modules_to_save ({', '.join(both)}) trains as a whole: keep one of the two.",
            ("lora.trainable_token_indices", "lora.modules_to_save"),
            (Change("lora.modules_to_save", tuple(n for n in lora.modules_to_save if n not in both)),),
        )


SAVED_RULES = (
    expert_rank_large,
    dropout_on_expert_parameters,
    tied_embeddings_untied,
    module_targeted_and_saved,
    saved_module_unknown,
    new_head_frozen,
    bias_without_biases,
    token_rows_and_whole_embedding,
)
