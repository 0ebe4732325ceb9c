"""Adapter counts against the real PEFT, on real architectures built small on the meta device."""

from __future__ import annotations

import re

import pytest

from lora_advise.adapter_limits import refused
from lora_advise.adapters import lora_params, params_per_rank, saved_params, targeted, trainable_params
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import LinearModule, LoraFacts, ModelFacts

torch = pytest.importorskip("torch", reason="the real PEFT needs torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 160,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
}
MODELS = {
    "llama": ("LlamaForCausalLM", SMALL),
    "qwen2": ("Qwen2ForCausalLM", {k: v for k, v in SMALL.items() if k != "head_dim"} | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", SMALL | {"tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", SMALL | EXPERTS),
    "olmoe": ("OlmoeForCausalLM", {k: v for k, v in SMALL.items() if k != "head_dim"} | {"num_experts": 4}),
    "mixtral": ("MixtralForCausalLM", SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma3_text": ("Gemma3ForCausalLM", SMALL | {"tie_word_embeddings": True}),
    "gpt_oss": ("GptOssForCausalLM", SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "falcon_h1": (
        "FalconH1ForCausalLM",
        SMALL | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {
            "text_config": {k: v for k, v in SMALL.items() if k != "head_dim"}
            | {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
            "vision_config": VISION,
        },
    ),
    "roberta": (
        "RobertaForSequenceClassification",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 160,
            "num_labels": 5,
            "max_position_embeddings": 40,
        },
    ),
}
SEQUENCE_CLASSIFIERS = {"roberta"}


def build(model_type):
    """The real transformers class on the meta device."""
    class_name, settings = MODELS[model_type]
    config = transformers.AutoConfig.for_model(model_type, **settings)
    with torch.device("meta"):
        return getattr(transformers, class_name)(config)


def facts_of(model_type, model):
    """The module table read from the model itself, independently of the catalogue."""
    families = {}
    for path, module in model.named_modules():
        star = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)
        bias = getattr(module, "bias", None) is not None
        head = model.get_output_embeddings() is module
        if isinstance(module, torch.nn.Linear):
            shape = (module.in_features, module.out_features, "lm_head" if head else "other", "linear", 1, bias)
        elif isinstance(module, torch.nn.Embedding):
            shape = (*module.weight.shape, "embedding", "embedding", 1, False)
        elif isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
            shape = (module.weight[0].numel(), module.out_channels, "other", "conv", 1, bias)
        else:
            for name, weight in module.named_parameters(recurse=False):
                if weight.dim() == 3:
                    experts, d_out, d_in = weight.shape
                    families.setdefault(
                        (f"{star}.{name}", d_in, d_out, "expert", "parameter", experts, False), []
                    ).append(path)
                elif weight.dim() == 2:
                    d_out, d_in = weight.shape
                    families.setdefault((f"{star}.{name}", d_in, d_out, "router", "parameter", 1, False), []).append(
                        path
                    )
            continue
        families.setdefault((star, *shape), []).append(path)
    modules = tuple(
        LinearModule(path=p, d_in=i, d_out=o, role=role, kind=kind, experts=e, bias=b, count=len(places))
        for (p, i, o, role, kind, e, b), places in families.items()
    )
    total = sum(p.numel() for p in model.parameters())
    return ModelFacts(
        name=model_type,
        model_type=model_type,
        kind="dense",
        total_params=total,
        active_params=total,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=96,
        vocab_size=160,
        tie_word_embeddings=MODELS[model_type][1].get("tie_word_embeddings", False),
        modules=modules,
    )


def real_counts(model, lora):
    """Trainable parameters of the real PEFT model: those of adapters, and all."""
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        bias=lora.bias,
        task_type=lora.task_type,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        target_parameters=list(lora.target_parameters) or None,
        exclude_modules=lora.exclude_modules
        if isinstance(lora.exclude_modules, str)
        else list(lora.exclude_modules or ()) or None,
        modules_to_save=list(lora.modules_to_save) or None,
        ensure_weight_tying=lora.ensure_weight_tying,
        layers_to_transform=list(lora.layers_to_transform) if lora.layers_to_transform else None,
        trainable_token_indices=list(lora.trainable_token_indices) if lora.trainable_token_indices else None,
    )
    adapted = peft.get_peft_model(model, config)
    trained = {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad}
    return sum(v for n, v in trained.items() if ".lora_" in n), sum(trained.values())


def lora(model_type, **settings):
    task = "SEQ_CLS" if model_type in SEQUENCE_CLASSIFIERS else "CAUSAL_LM"
    return LoraFacts(**({"r": 8, "lora_alpha": 16, "task_type": task} | settings))


def assert_as_peft(model_type, settings):
    """The real PEFT model has as many parameters as we count, or it cannot be made and we say so."""
    adapter = lora(model_type, **settings)
    model = build(model_type)
    facts = facts_of(model_type, model)
    if refused(facts, targeted(facts, adapter)):
        with pytest.raises(ValueError, match="incompatible with Mamba"):
            real_counts(model, adapter)
        return
    assert (lora_params(facts, adapter), trainable_params(facts, adapter)) == real_counts(model, adapter)


ATTENTION = {"roberta": ("query", "value"), "falcon_h1": ("q_proj", "v_proj")}
PATTERN = r".*\.(q_proj|down_proj|query|dense|o_proj)"


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("choice", ["all-linear", "names", "pattern", "dora", "rslora", "bias"])
def test_counts_are_those_of_peft(model_type, choice):
    names = ATTENTION.get(model_type, ("q_proj", "v_proj"))
    settings = {
        "all-linear": {"target_modules": "all-linear"},
        "names": {"target_modules": names},
        "pattern": {"target_modules": PATTERN},
        "dora": {"target_modules": names, "use_dora": True},
        "rslora": {"target_modules": "all-linear", "use_rslora": True, "r": 5},
        "bias": {"target_modules": names, "bias": "lora_only"},
    }[choice]
    assert_as_peft(model_type, settings)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", {"target_modules": "all-linear", "modules_to_save": ("lm_head", "embed_tokens")}),
        ("qwen3", {"target_modules": ("q_proj",), "modules_to_save": ("lm_head", "embed_tokens")}),
        (
            "qwen3",
            {
                "target_modules": ("q_proj",),
                "modules_to_save": ("lm_head", "embed_tokens"),
                "ensure_weight_tying": True,
            },
        ),
        ("llama", {"target_modules": ("q_proj", "up_proj"), "layers_to_transform": (0, 2)}),
        ("llama", {"target_modules": ("q_proj", "layers.1.mlp.up_proj")}),
        ("llama", {"target_modules": r"model\.layers\.[12]\.mlp\..*_proj"}),
        ("llama", {"target_modules": "all-linear", "exclude_modules": ("down_proj",)}),
        ("llama", {"target_modules": "all-linear", "exclude_modules": r".*\.mlp\..*"}),
        ("llama", {"target_modules": ("q_proj", "embed_tokens")}),
        ("llama", {"target_modules": ("q_proj",), "trainable_token_indices": (3, 4, 5)}),
        ("qwen2", {"target_modules": ("q_proj",), "bias": "all"}),
        (
            "mixtral",
            {"target_modules": ("q_proj",), "target_parameters": ("experts.gate_up_proj", "experts.down_proj")},
        ),
        ("mixtral", {"target_modules": ("q_proj", "w1", "w2", "w3")}),
        ("qwen3_moe", {"target_modules": ("q_proj", "gate_proj", "up_proj", "down_proj")}),
        ("qwen3_moe", {"target_modules": (), "target_parameters": ("experts.down_proj",)}),
        ("qwen2_5_vl", {"target_modules": r"model\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"}),
    ],
)
def test_particular_choices_are_counted_as_peft_does(model_type, settings):
    assert_as_peft(model_type, settings)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "out_proj"), r".*\.(in|out)_proj", ("conv1d",)])
def test_peft_refuses_the_output_of_mamba_mixers_and_so_do_we(targets):
    model = build("falcon_h1")
    facts, adapter = facts_of("falcon_h1", model), lora("falcon_h1", target_modules=targets)
    assert refused(facts, targeted(facts, adapter))
    with pytest.raises(ValueError, match="incompatible with Mamba"):
        real_counts(model, adapter)


def test_all_linear_leaves_the_output_head_alone_and_takes_the_vision_tower():
    model = build("qwen2_5_vl")
    paths = [m.path for m in targeted(facts_of("qwen2_5_vl", model), lora("qwen2_5_vl"))]
    assert not [p for p in paths if p.endswith("lm_head")]
    assert [p for p in paths if "visual" in p]


def test_adapters_grow_in_proportion_to_the_rank():
    facts = facts_of("llama", build("llama"))
    per_rank = params_per_rank(facts, lora("llama"))
    for r in (1, 8, 64):
        assert lora_params(facts, lora("llama", r=r)) == r * per_rank
    assert saved_params(facts, lora("llama")) == 0


def test_a_name_that_no_module_has_matches_nothing():
    facts = facts_of("llama", build("llama"))
    assert targeted(facts, lora("llama", target_modules=("nope",))) == ()


@pytest.mark.parametrize("pattern", ["(q_proj", "a" * 2001])
def test_a_pattern_that_is_no_pattern_is_named_in_the_error(pattern):
    facts = facts_of("llama", build("llama"))
    with pytest.raises(LoraAdviseError, match=r"lora\.target_modules"):
        targeted(facts, lora("llama", target_modules=pattern))
