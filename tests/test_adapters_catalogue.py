"""Adapter counts of the catalogue's models against the real PEFT: the real class, at its real size, on the meta device."""

from __future__ import annotations

import gc

import pytest

from lora_advise import catalogue
from lora_advise.adapter_limits import refused
from lora_advise.adapters import lora_params, saved_params, targeted, trainable_params
from lora_advise.advising import prepare
from lora_advise.decide_targets import decide_targets
from lora_advise.facts import LinearModule, LoraFacts
from lora_advise.request import Request

torch = pytest.importorskip("torch", reason="the real PEFT needs the [run] extra")
peft = pytest.importorskip("peft", reason="the real PEFT needs the [run] extra")
transformers = pytest.importorskip("transformers", reason="the real classes need the [run] extra")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ATTENTION = ("attention",)
MLP = ("mlp", "shared_expert")
QUERY_VALUE = (
    "q_proj", "v_proj", "q", "v", "query", "value", "query_proj", "value_proj", "q_lin", "v_lin", "query_key_value",
    "c_attn", "qkv_proj", "Wqkv", "q_b_proj", "kv_b_proj",
)  # fmt: skip
MLP_NAMES = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "fc1", "fc2", "c_fc", "wi", "wo", "input_linear")
PATTERN = (
    r".*\.\d+\.(.*\.)?(q_proj|query|q|q_lin|c_attn|Wqkv|query_key_value|down_proj|fc2|wo|Wo|w2|c_fc|lin2|ffn|out_proj|"
    r"dense_4h_to_h|output_linear|linear_out)"
)
EVEN_LAYERS = r".*\.\d*[02468]\..*(q_proj|down_proj|c_attn|fc1|fc2)"
MOST_MATRICES = {"vlm": 330}
"""Above so many matrices, 200 for other kinds, ``all-linear`` is left out: 2 ms for each matrix, most of it PEFT's."""
LIGHT = ("query and value", "mlp names")
ROTATING = ("attention", "query and value", "mlp", "mlp names", "pattern")


def models():
    """The model of each type that has the fewest weight matrices: real depth, and soon built."""
    found = {}
    for model_id in catalogue.index():
        row = catalogue.row(model_id)
        if row["class"] is not None and hasattr(transformers, row["class"]):
            cost = sum(module[3] for module in row["modules"])
            if row["model_type"] not in found or cost < found[row["model_type"]][0]:
                found[row["model_type"]] = (cost, row["id"])
    return {kind: model_id for kind, (_, model_id) in sorted(found.items())}


MODELS = models()


@pytest.fixture(autouse=True, scope="module")
def collect_new_objects_only():
    """Hundreds of models are built and dropped: no need to look through the libraries' own objects each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def names(model, roles):
    """Names of the linear layers with one of these roles."""
    return tuple(sorted({m.name for m in model.with_role(*roles) if m.kind == "linear"}))


def planned(model_id):
    """The targets that the advisor chooses for that model."""
    encoder = catalogue.row(model_id)["kind"] == "encoder"
    draft, _, _ = prepare(Request(model=model_id, task="classification" if encoder else "qa", gpu="H100"))
    decide_targets(draft)
    return draft.values["lora.target_modules"]


def chosen(model_id, choice):
    """``target_modules`` of a choice: names, a pattern or ``all-linear``."""
    model = catalogue.facts(model_id)
    choices = {
        "all-linear": lambda: "all-linear",
        "plan": lambda: planned(model_id),
        "attention": lambda: names(model, ATTENTION),
        "query and value": lambda: QUERY_VALUE,
        "mlp": lambda: names(model, MLP),
        "mlp names": lambda: MLP_NAMES,
        "pattern": lambda: PATTERN,
    }
    return choices[choice]()


def adapter(**settings):
    return LoraFacts(**({"r": 8, "lora_alpha": 16.0, "task_type": None} | settings))


def peft_config(lora):
    def listed(value):
        return list(value) if isinstance(value, tuple) else value

    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        bias=lora.bias,
        task_type=lora.task_type,
        target_modules=listed(lora.target_modules),
        target_parameters=listed(lora.target_parameters) or None,
        modules_to_save=listed(lora.modules_to_save) or None,
        layers_to_transform=listed(lora.layers_to_transform),
        trainable_token_indices=listed(lora.trainable_token_indices),
        ensure_weight_tying=lora.ensure_weight_tying,
        init_lora_weights=False,
    )


def by_peft(class_name, config, lora):
    """PEFT's own counts: adapters, full copies, everything trainable."""
    from lora_advise.runner.build_catalogue import build_on_meta

    model = build_on_meta(class_name, config)
    # Not low_cpu_mem_usage=True, under which PEFT 0.21.2 forgets that a full copy of a tied head is tied.
    with torch.device("meta"):
        adapted = peft.get_peft_model(model, peft_config(lora), autocast_adapter_dtype=False)
    trained = {name: p.numel() for name, p in adapted.named_parameters() if p.requires_grad}
    adapters = sum(n for name, n in trained.items() if ".lora_" in name)
    saved = sum(n for name, n in trained.items() if ".modules_to_save." in name)
    return adapters, saved, adapted.get_nb_trainable_parameters()[0]


def by_us(model, lora):
    return lora_params(model, lora), saved_params(model, lora), trainable_params(model, lora)


def assert_as_peft(model_id, lora):
    """Both count the same, or PEFT refuses and we know it."""
    row, model = catalogue.row(model_id), catalogue.facts(model_id)
    if refused(model, targeted(model, lora)):
        with pytest.raises(ValueError, match="incompatible with Mamba"):
            by_peft(row["class"], row["config"], lora)
    elif not targeted(model, lora):
        with pytest.raises(ValueError, match="not found in the base model"):
            by_peft(row["class"], row["config"], lora)
    else:
        assert by_us(model, lora) == by_peft(row["class"], row["config"], lora)


def test_the_catalogue_has_enough_models_of_every_kind():
    kinds = {catalogue.row(model_id)["kind"] for model_id in MODELS.values()}
    assert kinds == {"dense", "moe", "hybrid", "ssm", "vlm", "encoder", "encoder-decoder"}
    assert len(MODELS) >= 70


@pytest.mark.parametrize(("number", "model_type"), enumerate(MODELS), ids=str)
def test_counts_of_a_catalogue_model_are_those_of_peft(number, model_type):
    model_id = MODELS[model_type]
    rotating = [ROTATING[(number + step) % len(ROTATING)] for step in range(len(ROTATING))]
    row = catalogue.row(model_id)
    large = sum(module[3] for module in row["modules"]) > MOST_MATRICES.get(row["kind"], 200)
    counted = 0
    for choice in ("plan", *(LIGHT if large else ("all-linear",)), *rotating):
        targets = chosen(model_id, choice)
        if targets and counted < 3:
            assert_as_peft(model_id, adapter(target_modules=targets))
            counted += 1
    assert counted == 3


QWEN, GEMMA, LLAMA = "Qwen/Qwen3-0.6B", "google/gemma-2b", "meta-llama/Llama-3.2-1B"
MISTRAL, GPT2, T5 = "mistralai/Mistral-7B-v0.1", "distilbert/distilgpt2", "google-t5/t5-small"
MIXTRAL, QWEN_MOE, GPT_OSS = "mistralai/Mixtral-8x7B-v0.1", "Qwen/Qwen3-30B-A3B", "openai/gpt-oss-20b"
QV, BOTH = ("q_proj", "v_proj"), ("embed_tokens", "lm_head")


@pytest.mark.parametrize(
    ("model_id", "targets"),
    [
        (LLAMA, "all-linear"), (QWEN, QV), (GPT2, "all-linear"), (T5, ("q", "v", "wi", "wo")),
        ("google/gemma-3-4b-pt", QV), ("google-bert/bert-base-uncased", ("query", "value", "dense")),
        (MIXTRAL, ("q_proj", "k_proj", "v_proj", "o_proj")), ("LiquidAI/LFM2-350M", "all-linear"),
        ("deepseek-ai/DeepSeek-V2-Lite", ("q_proj", "kv_b_proj")),
    ],
)  # fmt: skip
def test_dora_and_rslora(model_id, targets):
    assert_as_peft(model_id, adapter(target_modules=targets, use_dora=True, r=5))
    assert_as_peft(model_id, adapter(target_modules=targets, use_rslora=True, r=3))


@pytest.mark.parametrize("tying", [False, True])
@pytest.mark.parametrize(
    ("model_id", "targets"),
    [(QWEN, ("v_proj",)), (MISTRAL, ("v_proj",)), (GEMMA, QV), (GPT2, "all-linear"), (T5, ("q", "v")),
     ("facebook/bart-base", ("q_proj", "v_proj")), ("google/gemma-3-4b-pt", ("o_proj",)), ("facebook/opt-125m", QV),
     ("CohereLabs/aya-23-8B", ("o_proj",)), ("google/mt5-small", ("v",))],
)  # fmt: skip
@pytest.mark.parametrize("saved", [BOTH, ("lm_head",), ("embed_tokens",)], ids="+".join)
def test_full_copies_of_embedding_and_head(model_id, targets, saved, tying):
    assert_as_peft(model_id, adapter(target_modules=targets, modules_to_save=saved, ensure_weight_tying=tying))


@pytest.mark.parametrize("tying", [False, True])
@pytest.mark.parametrize("further", [("embed_tokens",), ("lm_head",), BOTH], ids="+".join)
@pytest.mark.parametrize("model_id", [QWEN, MISTRAL, GPT2, T5, "facebook/bart-base", "google/gemma-3-4b-pt"])
def test_adapters_on_embedding_and_head(model_id, further, tying):
    targets = {GPT2: ("c_attn",), T5: ("q", "v")}.get(model_id, QV)
    assert_as_peft(model_id, adapter(target_modules=targets + further, ensure_weight_tying=tying))


@pytest.mark.parametrize(
    "model_id",
    [QWEN, MISTRAL, GPT_OSS, "albert/albert-base-v2", "facebook/opt-350m", "google/gemma-3-4b-pt",
     "meta-llama/Llama-3.2-11B-Vision-Instruct", "HuggingFaceTB/SmolVLM-256M-Instruct", "google/gemma-3n-E2B"],
)  # fmt: skip
@pytest.mark.parametrize("tying", [False, True])
def test_trained_token_rows_are_as_wide_as_the_embedding(model_id, tying):
    targets = names(catalogue.facts(model_id), ATTENTION)
    assert_as_peft(
        model_id, adapter(target_modules=targets, trainable_token_indices=(3, 7, 11), ensure_weight_tying=tying)
    )


@pytest.mark.parametrize(
    ("model_id", "bias"),
    [("Qwen/Qwen2.5-0.5B", "all"), ("Qwen/Qwen2.5-0.5B", "lora_only"), (GPT_OSS, "all"), (GPT_OSS, "lora_only"),
     ("zai-org/GLM-4.5-Air", "all"), (LLAMA, "all"), (GPT2, "lora_only"), ("microsoft/phi-1_5", "lora_only"),
     ("google-bert/bert-base-uncased", "lora_only"), ("facebook/opt-125m", "lora_only"),
     ("bigscience/bloom-560m", "lora_only"), ("bigcode/starcoder2-3b", "lora_only")],
)  # fmt: skip
def test_biases(model_id, bias):
    targets = names(catalogue.facts(model_id), ATTENTION)
    assert_as_peft(model_id, adapter(target_modules=targets, bias=bias))


def test_all_biases_are_a_lower_bound_where_norms_have_them():
    row, lora = catalogue.row(GPT2), adapter(target_modules=("c_attn",), bias="all")
    norms = 768 * (2 * row["num_hidden_layers"] + 1)
    assert trainable_params(catalogue.facts(GPT2), lora) + norms == by_peft(row["class"], row["config"], lora)[2]


def expert_parameters(model):
    """Fused expert matrices as ``target_parameters`` names them: from the first name behind the layer's index."""
    found = {m.path.split("*.", 1)[1] for m in model.modules if m.kind == "parameter" and m.role == "expert"}
    return tuple(sorted(found))


FUSED = sorted(model_id for model_id in MODELS.values() if expert_parameters(catalogue.facts(model_id)))


@pytest.mark.parametrize("model_id", FUSED)
def test_adapters_on_fused_experts(model_id):
    model = catalogue.facts(model_id)
    lora = adapter(target_modules=(), target_parameters=expert_parameters(model))
    assert {m.role for m in targeted(model, lora)} == {"expert"}
    assert_as_peft(model_id, lora)


@pytest.mark.parametrize("model_id", [MIXTRAL, QWEN_MOE, "deepseek-ai/DeepSeek-V2-Lite", "allenai/OLMoE-1B-7B-0924"])
def test_old_names_of_experts_become_fused_parameters_of_twice_the_rank(model_id):
    old = ("w1", "w2", "w3") if model_id == MIXTRAL else ("gate_proj", "up_proj", "down_proj")
    assert_as_peft(model_id, adapter(target_modules=("q_proj", *old)))


@pytest.mark.parametrize("layers", [(0, 1, 3), (2,), (0, 5, 900)], ids=str)
@pytest.mark.parametrize("model_id", [LLAMA, GPT2, T5, "OpenGVLab/InternVL3_5-8B-HF", "facebook/bart-base", QWEN_MOE])
def test_some_layers_only(model_id, layers):
    targets = names(catalogue.facts(model_id), ATTENTION)
    assert_as_peft(model_id, adapter(target_modules=targets, layers_to_transform=layers))


@pytest.mark.parametrize("model_id", [LLAMA, GPT2, "OpenGVLab/InternVL3_5-8B-HF", "Qwen/Qwen2-VL-2B-Instruct"])
def test_a_pattern_over_layers_counts_each_stack_by_its_own_depth(model_id):
    assert_as_peft(model_id, adapter(target_modules=EVEN_LAYERS))


CLASSIFIERS = {
    "google-bert/bert-base-uncased": "BertForSequenceClassification",
    "FacebookAI/xlm-roberta-base": "XLMRobertaForSequenceClassification",
    "microsoft/deberta-v3-small": "DebertaV2ForSequenceClassification",
    "distilbert/distilbert-base-uncased": "DistilBertForSequenceClassification",
    "albert/albert-base-v2": "AlbertForSequenceClassification",
    QWEN: "Qwen3ForSequenceClassification",
    LLAMA: "LlamaForSequenceClassification",
}
HEADS = {
    "microsoft/deberta-v3-small": ("pooler", "classifier"),
    "distilbert/distilbert-base-uncased": ("pre_classifier", "classifier"),
    QWEN: ("score",), LLAMA: ("score",),
}  # fmt: skip


@pytest.mark.parametrize("model_id", CLASSIFIERS)
def test_classifiers_with_the_head_that_is_saved(model_id):
    from lora_advise.runner.build_catalogue import build_on_meta, observe

    row = catalogue.row(model_id)
    config = row["config"] | {"id2label": {n: str(n) for n in range(7)}, "label2id": {str(n): n for n in range(7)}}
    columns = ("path", "d_in", "d_out", "count", "role", "kind", "experts", "bias")
    seen = observe(build_on_meta(CLASSIFIERS[model_id], config))["modules"]
    modules = tuple(LinearModule(**dict(zip(columns, module, strict=True))) for module in seen)
    model = catalogue.facts(model_id).changed({"modules": modules})
    lora = adapter(task_type="SEQ_CLS", modules_to_save=HEADS.get(model_id, ("classifier",)))
    assert saved_params(model, lora)
    assert by_us(model, lora) == by_peft(CLASSIFIERS[model_id], config, lora)
