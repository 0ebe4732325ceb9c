"""TRL's files and commands: what each key means, what TRL does where a file is silent, and that both still hold."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_advise.dialect_hf import TRAINING_DEFAULTS
from lora_advise.dialect_trl import METHOD_DEFAULTS
from lora_advise.dialects import dialect, recognise
from lora_advise.document_read import read_document
from lora_advise.lint_files import Wanted, readings_of
from lora_advise.targets_as import _DEFAULTS
from lora_advise.unknown import UnknownFact, unknown_fields

SFT = "model_name_or_path: Qwen/Qwen3-4B\ndataset_name: d\nuse_peft: true\nlora_r: 8\nlora_target_modules: all-linear\npacking: false\n"


def reading(text, name="run.yaml", **given_sections):
    ((_, found),) = readings_of(read_document(name, text=text), Wanted(given=given_sections))
    return found


def command(text):
    return reading(text, "run.sh")


def test_the_defaults_of_a_supervised_run():
    found = reading(SFT)
    assert found.dialect.name == "trl"
    facts = found.facts
    assert (facts.train.learning_rate, facts.train.max_length, facts.train.logging_steps) == (2e-5, 1024, 10)
    assert (facts.lora.r, facts.lora.lora_alpha, facts.lora.lora_dropout) == (8, 32.0, 0.05)
    assert facts.train.activation_checkpointing and facts.train.dtype == "bfloat16"
    assert found.inherited["train.learning_rate"] == "TRL's default"
    assert facts.task.family == "sft"


@pytest.mark.parametrize(
    ("script", "task", "rate"),
    [
        ("sft", "chat", 2e-5),
        ("dpo", "dpo", 1e-6),
        ("grpo", "grpo", 1e-6),
        ("kto", "kto", 1e-6),
        ("reward", "reward", 1e-4),
    ],
)
@pytest.mark.parametrize("start", ["trl {}", "python trl/scripts/{}.py", "accelerate launch trl/scripts/{}.py"])
def test_the_command_says_what_the_run_is_for(start, script, task, rate):
    facts = command(f"{start.format(script)} --model_name_or_path Qwen/Qwen3-4B --use_peft --dataset_name d").facts
    assert facts.task.name == task
    assert facts.train.learning_rate == rate


def test_lora_settings_count_only_beside_use_peft():
    assert command("trl sft --model_name_or_path Qwen/Qwen3-4B --dataset_name d --lora_r 64").facts.lora is None


def test_one_name_in_a_list_becomes_a_pattern():
    """``ModelConfig`` unpacks a list of one, and PEFT takes a bare text for a regular expression."""
    start = "trl sft --model_name_or_path Qwen/Qwen3-4B --use_peft --lora_target_modules"
    assert command(f"{start} q_proj").facts.lora.target_modules == "q_proj"
    assert command(f"{start} q_proj v_proj").facts.lora.target_modules == ("q_proj", "v_proj")
    assert command(f"{start} q_proj, v_proj").facts.lora.target_modules == ("q_proj,", "v_proj")


def test_without_names_peft_chooses():
    found = command("trl sft --model_name_or_path Qwen/Qwen3-4B --use_peft")
    assert found.facts.lora.target_modules == ("q_proj", "v_proj")
    unheard = command("trl sft --model_name_or_path nobody/of-this-name --use_peft").facts.lora
    assert "target_modules" in unknown_fields(unheard)


def test_four_bits_compute_in_float32_unless_dtype_says_otherwise():
    start = "trl sft --model_name_or_path Qwen/Qwen3-4B --use_peft --load_in_4bit"
    assert command(start).facts.quant.bnb_4bit_compute_dtype == "float32"
    assert command(f"{start} --dtype bfloat16").facts.quant.bnb_4bit_compute_dtype == "bfloat16"
    with pytest.raises(UnknownFact):
        _ = command(f"{start} --dtype auto").facts.quant.bnb_4bit_compute_dtype
    assert not command(start).facts.quant.bnb_4bit_use_double_quant


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("", "bfloat16"),
        ("--fp16", "float16"),
        ("--bf16 False", "float32"),
        ("--bf16", "bfloat16"),
        ("--bf16 False --fp16", "float16"),
    ],
)
def test_precision(flags, dtype):
    assert command(f"trl sft --model_name_or_path a/b --use_peft {flags}").facts.train.dtype == dtype


def test_a_switch_off_is_a_key_of_its_own():
    found = command(
        "trl sft --model_name_or_path a/b --use_peft --no_gradient_checkpointing --no_remove_unused_columns"
    )
    assert not found.facts.train.activation_checkpointing
    assert not found.strangers


def test_the_data_decide_the_loss_when_no_setting_does():
    start = "trl sft --model_name_or_path a/b --use_peft"
    with pytest.raises(UnknownFact):
        _ = command(start).facts.train.loss_on
    assert command(f"{start} --assistant_only_loss").facts.train.loss_on == "assistant"
    assert command(f"{start} --completion_only_loss False").facts.train.loss_on == "all"
    assert command("trl dpo --model_name_or_path a/b --use_peft").facts.train.loss_on == "completion"


def test_evaluation_in_steps_goes_with_the_logging():
    facts = command("trl sft --model_name_or_path a/b --use_peft --eval_strategy steps --logging_steps 7").facts
    assert facts.train.eval_steps == 7


def test_keys_and_the_file_name_tell_what_a_yaml_file_is_for():
    bare = "model_name_or_path: a/b\nuse_peft: true\nlora_r: 8\ndataset_name: d\n"
    assert reading(bare + "num_generations: 4\n").facts.task.name == "grpo"
    assert reading(bare + "desirable_weight: 1.0\n").facts.task.name == "kto"
    assert reading(bare, "recipes/dpo/config.yaml").facts.task.name == "dpo"
    nameless = reading(bare).facts
    assert nameless.task is None
    assert {"learning_rate", "max_length", "beta"} <= unknown_fields(nameless.train)


def test_online_dpo_is_not_dpo():
    assert (
        command("python examples/scripts/online_dpo.py --model_name_or_path a/b --use_peft --dataset_name d").facts.task
        is None
    )


def test_former_names_are_read_and_named():
    found = reading(SFT.replace("packing: false", "max_seq_length: 2048\ntorch_dtype: bfloat16\nload_in_4bit: true"))
    assert found.facts.train.max_length == 2048
    assert found.facts.quant.bnb_4bit_compute_dtype == "bfloat16"
    assert [found.dialect.renamed[n].new for _, n in found.outdated] == ["max_length", "dtype"]


@pytest.mark.parametrize(
    "text",
    [
        "base_model: a/b\nadapter: lora\nlora_r: 8\n",
        "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\ndataset: d\n",
        "learning_rate: 1e-4\n",
        "use_peft: true\n",
    ],
)
def test_files_of_others_are_left_alone(text):
    (config,) = read_document("x.yaml", text=text).configs
    assert dialect("trl").recognise(config) == 0


def test_a_command_that_reads_its_settings_from_a_file_is_not_judged():
    (config,) = read_document("x.sh", text="trl sft --config run.yaml --learning_rate 1e-4").configs
    assert recognise(config) is None


@given(
    r=st.integers(1, 512), alpha=st.floats(0.5, 1024), rate=st.floats(1e-7, 1e-2), length=st.integers(8, 1 << 17),
    flags=st.sets(st.sampled_from(["use_rslora", "use_dora", "load_in_4bit", "packing"])),
)  # fmt: skip
def test_what_a_command_writes_is_what_is_read(r, alpha, rate, length, flags):
    words = " ".join(f"--{flag}" for flag in sorted(flags))
    facts = command(
        f"trl sft --model_name_or_path a/b --use_peft --lora_r {r} --lora_alpha={alpha!r} --learning_rate {rate!r} "
        f"--max_length {length} {words}"
    ).facts
    assert (facts.lora.r, facts.lora.lora_alpha, facts.train.learning_rate, facts.train.max_length) == (
        r,
        alpha,
        rate,
        length,
    )
    assert facts.lora.use_rslora == ("use_rslora" in flags)
    assert facts.lora.use_dora == ("use_dora" in flags)
    assert facts.quant.load_in_4bit == ("load_in_4bit" in flags)
    assert facts.train.packing == ("packing" in flags)


def declared(package, file, name):
    """Defaults that a dataclass of an installed library declares, read from its source."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.origin).parent / file
    node = next(n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.ClassDef) and n.name == name)
    found = {}
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call):
            values = [k.value for k in field.value.keywords if k.arg == "default"]
            if values and isinstance(values[0], (ast.Constant, ast.UnaryOp)):
                found[field.target.id] = ast.literal_eval(values[0])
    return found


CONFIGS = {
    "sft": ("trainer/sft_config.py", "SFTConfig"), "dpo": ("trainer/dpo_config.py", "DPOConfig"),
    "kto": ("trainer/kto_config.py", "KTOConfig"), "grpo": ("trainer/grpo_config.py", "GRPOConfig"),
    "rloo": ("trainer/rloo_config.py", "RLOOConfig"), "reward": ("trainer/reward_config.py", "RewardConfig"),
    "orpo": ("experimental/orpo/orpo_config.py", "ORPOConfig"), "cpo": ("experimental/cpo/cpo_config.py", "CPOConfig"),
}  # fmt: skip


@pytest.mark.parametrize("method", sorted(CONFIGS))
def test_the_defaults_are_those_of_the_installed_trl(method):
    theirs = declared("trl", *CONFIGS[method])
    for fact, value in METHOD_DEFAULTS[method].items():
        name = fact.removeprefix("train.")
        assert theirs.get(name) == value, f"{method}: {name}"


def test_the_models_defaults_are_those_of_the_installed_trl():
    theirs = declared("trl", "trainer/model_config.py", "ModelConfig")
    facts = command("trl sft --model_name_or_path a/b --use_peft").facts
    ours = {
        "lora_r": facts.lora.r, "lora_alpha": facts.lora.lora_alpha, "lora_dropout": facts.lora.lora_dropout,
        "lora_task_type": facts.lora.task_type, "use_rslora": facts.lora.use_rslora, "use_dora": facts.lora.use_dora,
        "load_in_4bit": facts.quant.load_in_4bit, "load_in_8bit": facts.quant.load_in_8bit,
        "bnb_4bit_quant_type": facts.quant.bnb_4bit_quant_type, "dtype": facts.quant.bnb_4bit_compute_dtype,
        "use_bnb_nested_quant": facts.quant.bnb_4bit_use_double_quant,
    }  # fmt: skip
    assert ours == {name: theirs[name] for name in ours}
    base = declared("trl", "trainer/base_config.py", "_BaseConfig")
    assert (base["logging_steps"], base["gradient_checkpointing"], base["bf16"]) == (10, True, None)


def test_the_defaults_below_are_those_of_the_installed_transformers():
    theirs = declared("transformers", "training_args.py", "TrainingArguments")
    names = {fact.removeprefix("train."): value for fact, value in TRAINING_DEFAULTS.items()}
    same = set(names) & set(theirs) - {"max_steps", "lr_scheduler_kwargs", "activation_checkpointing"}
    assert len(same) >= 18
    assert {name: theirs[name] for name in same} == {name: names[name] for name in same}


def test_pefts_choice_of_modules_is_that_of_the_installed_peft():
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        pytest.skip("peft is not installed")
    tree = ast.parse((Path(spec.origin).parent / "utils" / "constants.py").read_text("utf-8"))
    name = "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"
    theirs = next(
        ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == name
    )
    ours = {kind: names for names, kinds in _DEFAULTS.items() for kind in kinds}
    assert ours == {kind: tuple(theirs[kind]) for kind in ours}
