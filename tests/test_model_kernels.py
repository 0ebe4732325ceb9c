"""Attention kernels that some classes lack, and checkpoints that are published below 16 bits."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from lora_advise import advise
from lora_advise.catalogue import index, resolve_model, row
from lora_advise.errors import LoraAdviseError
from lora_advise.model_kernels import FLASH_WITHOUT_SDPA, NO_SDPA, STORED

needs_torch = pytest.mark.skipif(find_spec("torch") is None or find_spec("transformers") is None, reason="needs torch")


@needs_torch
def test_the_lists_of_kernels_are_what_the_installed_classes_say() -> None:
    import transformers

    seen: dict[str, tuple[bool, bool]] = {}
    for model_id in index():
        entry = row(model_id)
        if entry["class"] and hasattr(transformers, entry["class"]):
            made = getattr(transformers, entry["class"])
            seen[entry["model_type"]] = (made._supports_sdpa, made._supports_flash_attn)
    assert len(seen) > 80
    assert {kind for kind, (sdpa, _) in seen.items() if not sdpa} == NO_SDPA & set(seen)
    assert {kind for kind in NO_SDPA & set(seen) if seen[kind][1]} == FLASH_WITHOUT_SDPA & set(seen)
    assert FLASH_WITHOUT_SDPA < NO_SDPA


@pytest.mark.parametrize(
    ("model", "task", "kernel"),
    [
        ("google/gemma-2-9b-it", "chat", "eager"),
        ("openai/gpt-oss-20b", "chat", "eager"),
        ("microsoft/deberta-v3-large", "classification", "eager"),
        ("Qwen/Qwen2.5-7B-Instruct", "chat", "sdpa"),
    ],
)
def test_a_plan_names_an_attention_that_the_class_has(model: str, task: str, kernel: str) -> None:
    advice = advise(model, task, gpu="H100")
    assert advice.facts.train is not None
    assert advice.facts.train.attn_implementation == kernel
    assert ("refuse sdpa" in advice.decision("train.attn_implementation").because) == (kernel == "eager")
    assert not [f for f in advice.findings if f.rule == "attention-not-in-class"]


def test_a_kernel_of_ones_own_is_respected_and_judged() -> None:
    flash = advise("gemma-2-9b-it", "chat", gpu="H100", attention="flash_attention_2")
    assert not flash.findings
    sdpa = advise("gemma-2-9b-it", "chat", gpu="H100", attention="sdpa")
    assert [f.rule for f in sdpa.findings] == ["attention-not-in-class"]


@pytest.mark.parametrize("model", ["gpt-oss-20b", "gpt-oss-120b", "DeepSeek-V3", "Kimi-K2-Instruct", "MiniMax-M2"])
@pytest.mark.parametrize("gpu", ["RTX4090", "H100", "8xH200"])
def test_a_quantized_checkpoint_never_gets_qlora(model: str, gpu: str) -> None:
    advice = advise(model, "chat", gpu=gpu)
    assert advice.facts.method == "lora"
    assert all(verdict.method != "qlora" for verdict in advice.memory)
    assert [n for n in advice.notes if "16-bit weights while it loads" in n.text]


def test_qlora_on_a_quantized_checkpoint_is_an_error() -> None:
    advice = advise("gpt-oss-20b", "chat", gpu="H100", method="qlora")
    assert "quantized-checkpoint-again" in [f.rule for f in advice.findings]
    assert [n for n in advice.notes if n.kind == "warning" and "QLoRA cannot start" in n.text]


def test_every_listed_checkpoint_is_in_the_catalogue() -> None:
    assert set(STORED) <= set(index())


def folder(tmp_path: Path, quantization: object) -> Path:
    from lora_advise.runner.builtin import builtin_model_path

    made = tmp_path / "model"
    shutil.copytree(builtin_model_path(), made)
    config = json.loads((made / "config.json").read_text("utf-8"))
    (made / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}), "utf-8")
    return made


@pytest.mark.parametrize(
    ("quantization", "stored"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes-8bit"),
        ({"quant_method": "\x1b[31m"}, "an unnamed format"),
        (None, None),
    ],
)
def test_a_config_says_how_its_weights_are_stored(tmp_path: Path, quantization: object, stored: str | None) -> None:
    model, _ = resolve_model(str(folder(tmp_path, quantization)))
    assert model.checkpoint_quantization == stored


def quantized_tiny(tmp_path: Path) -> Path:
    """The tiny model with its linear layers stored as FP8 blocks, as DeepSeek stores its own."""
    import torch
    from safetensors.torch import load_file, save_file

    made = folder(tmp_path, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]})
    weights, out = load_file(made / "model.safetensors"), {}
    for name, weight in weights.items():
        out[name] = weight
        if "proj" in name:
            blocks = weight.float().reshape(weight.shape[0] // 128, 128, weight.shape[1] // 128, 128)
            scale = blocks.abs().amax(dim=(1, 3)) / 448
            out[name] = (blocks / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
            out[name + "_scale_inv"] = scale
    save_file(out, made / "model.safetensors", metadata={"format": "pt"})
    return made


@needs_torch
def test_an_fp8_checkpoint_is_loaded_as_trainable_weights(tmp_path: Path) -> None:
    import torch

    from lora_advise.runner.builtin import builtin_model_path
    from lora_advise.runner.device import settle
    from lora_advise.runner.load_model import load_base, load_tokenizer

    plain = advise(str(builtin_model_path()), "qa", gpu="cpu").facts
    facts = advise(str(quantized_tiny(tmp_path)), "qa", gpu="cpu").facts
    assert facts.model is not None
    tokenizer = load_tokenizer(facts.model)
    loaded, sound = (load_base(f, settle(f), tokenizer) for f in (facts, plain))
    for (name, weight), (_, same) in zip(loaded.named_parameters(), sound.named_parameters(), strict=True):
        assert weight.dtype == torch.float32, name
        assert (weight - same).abs().max() <= 0.07 * same.abs().max(), name


@needs_torch
def test_the_runner_refuses_in_one_sentence_what_transformers_would(tmp_path: Path) -> None:
    from lora_advise.runner.device import settle
    from lora_advise.runner.load_model import load_base, load_tokenizer

    facts = advise(str(folder(tmp_path, {"quant_method": "fp8"})), "qa", gpu="cpu", method="qlora").facts
    assert facts.model is not None
    with pytest.raises(LoraAdviseError, match="stored in fp8, and transformers does not quantize"):
        load_base(facts, settle(facts), load_tokenizer(facts.model))


@needs_torch
def test_a_refused_kernel_is_one_sentence(tmp_path: Path) -> None:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    from lora_advise.runner.builtin import builtin_model_path
    from lora_advise.runner.device import settle
    from lora_advise.runner.load_model import load_base, load_tokenizer

    shutil.copytree(builtin_model_path(), tmp_path / "neo")
    config = GPTNeoConfig(vocab_size=675, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global"], 2]])
    GPTNeoForCausalLM(config).save_pretrained(tmp_path / "neo")
    facts = advise(str(tmp_path / "neo"), "qa", gpu="cpu", attention="sdpa").facts
    assert facts.model is not None
    tokenizer = load_tokenizer(facts.model)
    with pytest.raises(
        LoraAdviseError, match=r"no sdpa attention for this model; set train\.attn_implementation to eager"
    ):
        load_base(facts, settle(facts), tokenizer)
    mended = advise(str(tmp_path / "neo"), "qa", gpu="cpu").facts
    assert load_base(mended, settle(mended), tokenizer).config._attn_implementation == "eager"
