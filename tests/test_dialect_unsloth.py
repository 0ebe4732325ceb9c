"""Unsloth's programs: its own defaults, what it makes of the loader's and the trainer's settings, and Studio's YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_advise.dialects import recognise
from lora_advise.document_read import read_document
from lora_advise.facts import HardwareFacts
from lora_advise.lint_files import Wanted, lint_document, readings_of
from lora_advise.unknown import UnknownFact

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "configs" / "unsloth_studio_yaml"
IMPORTS = """
from unsloth import FastLanguageModel, FastModel, FastVisionModel, UnslothTrainer, UnslothTrainingArguments, is_bfloat16_supported
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from transformers import TrainingArguments
"""
LOAD = 'model, tokenizer = FastLanguageModel.from_pretrained("unsloth/Meta-Llama-3.1-8B", max_seq_length=4096)\n'
WRAP = "model = FastLanguageModel.get_peft_model(model, r=32)\n"
TRAIN = "trainer = SFTTrainer(model=model, args=SFTConfig(max_steps=200, dataset_text_field='text'))\n"
PROGRAM = LOAD + WRAP + TRAIN
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STUDIO = """
model: unsloth/Meta-Llama-3.1-8B
data: {dataset: tatsu-lab/alpaca}
training:
  training_type: lora
  learning_rate: 2e-4
  num_epochs: 1
  max_steps: 0
  random_seed: 3407
  train_on_completions: true
lora: {lora_r: 32, lora_alpha: 32, target_modules: "q_proj, v_proj", use_loftq: false}
"""


def readings(text, name="train.py", **given):
    text = IMPORTS + text if name.endswith(".py") else text
    return [r for _, r in readings_of(read_document(name, text=text), Wanted(given=given))]


def reading(text, name="train.py", **given):
    (found,) = readings(text, name, **given)
    return found


def unknown(section, field):
    with pytest.raises(UnknownFact):
        getattr(section, field)


def test_unsloths_own_defaults():
    found = reading(PROGRAM)
    facts, train = found.facts, found.facts.train
    assert (found.dialect.name, facts.stack.framework, facts.method) == ("unsloth", "unsloth", "qlora")
    assert (facts.lora.r, facts.lora.lora_alpha, facts.lora.target_modules) == (32, 16, SEVEN)
    assert (facts.quant.bnb_4bit_quant_type, facts.quant.bnb_4bit_use_double_quant) == ("nf4", True)
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps, train.seed) == (4, 2, 3407)
    assert (train.optim, train.weight_decay, train.learning_rate) == ("adamw_8bit", 0.001, 5e-5)
    assert train.warmup_steps == 20 and train.activation_checkpointing and train.loss_on == "all"
    assert found.inherited["train.optim"] == "Unsloth's default"


def test_plain_training_arguments_keep_transformers_defaults():
    train = reading(
        PROGRAM.replace("SFTConfig(max_steps=200, dataset_text_field='text')", "TrainingArguments('out')")
    ).facts.train
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps, train.warmup_steps) == (8, 1, 0)


@pytest.mark.parametrize(
    ("loader", "arguments", "length"),
    [
        ("max_seq_length=4096", "", 4096), ("max_seq_length=4096", "max_length=512", 512),
        ("max_seq_length=4096", "max_length=1024", 4096), ("max_seq_length=512", "max_length=2048", 512),
        ("max_seq_length=4096", "max_seq_length=1024", 1024), ("load_in_4bit=True", "", 2048),
    ],
)  # fmt: skip
def test_the_smaller_length_counts_and_trls_default_is_none(loader, arguments, length):
    text = PROGRAM.replace("max_seq_length=4096", loader).replace(
        "max_steps=200", f"max_steps=200, {arguments}" if arguments else "max_steps=200"
    )
    assert reading(text).facts.train.max_length == length


def test_the_trainer_may_still_be_given_what_moved_to_its_configuration():
    found = reading(PROGRAM.replace("model=model", "model=model, max_seq_length=256, packing=True"))
    assert (found.facts.train.max_length, found.facts.train.packing) == (256, True)
    text = LOAD + WRAP + "DPOTrainer(model=model, args=DPOConfig(learning_rate=5e-6), beta=0.3, max_length=600)"
    assert (reading(text).facts.train.beta, reading(text).facts.train.max_length) == (0.3, 600)


def test_each_trainer_is_a_run_of_its_own():
    grpo = "GRPOTrainer(model=model, args=GRPOConfig(learning_rate=5e-6, num_generations=6, per_device_train_batch_size=1))\n"
    first, second = readings(PROGRAM + "trainer.train()\n" + grpo)
    assert (first.facts.task.trainer, second.facts.task.trainer) == ("sft", "grpo")
    assert (first.facts.train.max_steps, second.facts.train.max_steps) == (200, None)
    assert second.facts.lora.r == 32


@pytest.mark.parametrize(
    ("settings", "four", "eight"),
    [("", True, False), ("load_in_4bit=False", False, False), ("load_in_8bit=True", False, True), ("load_in_16bit=True", False, False),
     ("load_in_4bit=True, full_finetuning=True", False, False)],
)  # fmt: skip
def test_four_bits_unless_the_loader_is_told_otherwise(settings, four, eight):
    quant = reading(PROGRAM.replace("max_seq_length=4096", f"max_seq_length=4096, {settings}")).facts.quant
    assert (quant.load_in_4bit, quant.load_in_8bit) == (four, eight)


def test_full_fine_tuning_has_no_adapter():
    assert reading(PROGRAM.replace("max_seq_length=4096", "full_finetuning=True")).facts.lora is None
    assert reading(PROGRAM.replace("max_seq_length=4096", "full_finetuning=whole")).facts.lora is not None


def test_embeddings_among_the_targets_are_trained_whole():
    lora = reading(PROGRAM.replace("r=32", 'r=32, target_modules=["q_proj", "lm_head"]')).facts.lora
    assert (lora.target_modules, lora.modules_to_save) == (("q_proj",), ("lm_head",))


def test_fused_experts_follow_the_projections_of_the_mlp():
    text = PROGRAM.replace("Meta-Llama-3.1-8B", "Qwen3-30B-A3B")
    assert set(reading(text).facts.lora.target_parameters) == {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    attention = text.replace("r=32", 'r=32, target_modules=["q_proj", "v_proj"]')
    assert reading(attention).facts.lora.target_parameters == ()


def test_the_vision_tower_is_left_alone_by_the_language_class():
    text = PROGRAM.replace("unsloth/Meta-Llama-3.1-8B", "Qwen/Qwen2.5-VL-7B-Instruct")
    assert "visual" in reading(text).facts.lora.exclude_modules
    vision = text.replace("FastLanguageModel", "FastVisionModel").replace("r=32", 'r=32, target_modules=["q_proj"]')
    assert reading(vision).facts.lora.exclude_modules is None
    assert reading(vision.replace("r=32", "r=32, finetune_vision_layers=False")).facts.lora.exclude_modules
    unknown(reading(text.replace("FastLanguageModel", "FastVisionModel")).facts.lora, "target_modules")


@pytest.mark.parametrize(
    ("flags", "bf16", "dtype"),
    [("", True, "bfloat16"), ("", False, "float16"), ("fp16=True", True, "float16"),
     ("fp16=not is_bfloat16_supported(), bf16=is_bfloat16_supported()", False, "float16"),
     ("fp16=not is_bfloat16_supported(), bf16=is_bfloat16_supported()", None, "bfloat16")],
)  # fmt: skip
def test_the_card_decides_the_precision_where_the_program_does_not(flags, bf16, dtype):
    hardware = HardwareFacts(name="card", memory_gib=16.0, bf16=bf16)
    text = PROGRAM.replace("max_steps=200", f"max_steps=200, {flags}" if flags else "max_steps=200")
    assert reading(text, hardware=hardware).facts.train.dtype == dtype


def test_masking_belongs_to_its_own_trainer():
    mask = "from unsloth.chat_templates import train_on_responses_only\ntrainer = train_on_responses_only(trainer, instruction_part='a')\n"
    second = TRAIN.replace("trainer", "later")
    first, other = readings(LOAD + WRAP + TRAIN + mask + second)
    assert (first.facts.train.loss_on, other.facts.train.loss_on) == ("assistant", "all")


def test_checkpointing_is_the_adapters_unless_the_arguments_say_no():
    assert not reading(
        PROGRAM.replace("r=32", "r=32, use_gradient_checkpointing=False")
    ).facts.train.activation_checkpointing
    assert not reading(
        PROGRAM.replace("max_steps", "gradient_checkpointing=False, max_steps")
    ).facts.train.activation_checkpointing


def test_a_group_that_does_not_divide_the_batch_becomes_it():
    text = LOAD + WRAP + "GRPOTrainer(model=model, args=GRPOConfig({}))"
    batch = "per_device_train_batch_size=1, gradient_accumulation_steps={}, num_generations=4"
    assert reading(text.format(batch.format(1))).facts.train.per_device_train_batch_size == 4
    assert reading(text.format(batch.format(4))).facts.train.per_device_train_batch_size == 1


def test_a_program_without_a_trainer_has_no_training():
    found = reading(LOAD + "FastLanguageModel.for_inference(model)\nmodel.save_pretrained_merged('m', tokenizer)")
    assert found.facts.train is None and found.facts.task is None and found.facts.lora is None


def test_strangers_of_get_peft_model_are_found_and_old_names_are_handed_on():
    found = reading(
        PROGRAM.replace("r=32", "r=32, lora_alhpa=16").replace(
            "max_steps", "warmup_ratio=0.1, overwrite_output_dir=True, max_steps"
        )
    )
    assert [e.path for e in found.strangers] == [("get_peft_model", "lora_alhpa")] and found.outdated == ()
    report = lint_document(
        read_document("t.py", text=IMPORTS + PROGRAM.replace("r=32", "r=32, lora_alhpa=16")), Wanted()
    )
    assert any(f.finding.rule == "key-misspelt" and "lora_alpha" in f.finding.message for f in report.findings)


def test_studio_reads_its_sections():
    found = reading(STUDIO, "run.yaml")
    facts = found.facts
    assert (found.dialect.name, facts.method, facts.lora.r, facts.lora.target_modules) == (
        "unsloth-studio",
        "qlora",
        32,
        ("q_proj", "v_proj"),
    )
    assert (facts.train.learning_rate, facts.train.max_length, facts.train.loss_on) == (2e-4, 2048, "assistant")
    assert (facts.train.max_steps, facts.train.num_train_epochs, facts.train.save_strategy) == (None, 1, "no")
    assert (facts.train.warmup_steps, facts.train.optim) == (5, "adamw_8bit")


def test_studio_leaves_the_gaps_of_a_preset_open():
    preset = STUDIO.replace("model: unsloth/Meta-Llama-3.1-8B\n", "").replace("data: {dataset: tatsu-lab/alpaca}\n", "")
    facts = reading(preset, "preset.yaml").facts
    unknown(facts.quant, "load_in_4bit")
    unknown(facts.train, "per_device_train_batch_size")
    assert facts.train.learning_rate == 2e-4


def test_studio_trains_all_weights_where_it_is_told_to():
    facts = reading(STUDIO.replace("training_type: lora", "training_type: full"), "run.yaml").facts
    assert facts.lora is None and not facts.quant.load_in_4bit


def test_studio_does_not_claim_other_trainers_sections():
    text = "training: {batch_size: 8, learning_rate: 0.001}\nlora: {r: 8}\nmodel: {name: x}\n"
    (config,) = read_document("x.yaml", text=text).configs
    found = recognise(config)
    assert found is None or found.name != "unsloth-studio"


def test_every_studio_file_of_the_corpus_is_read_without_an_error():
    if not CORPUS.is_dir():
        pytest.skip("the corpus of configs is not beside this checkout")
    for path in sorted(CORPUS.rglob("*.yaml")):
        ((_, found),) = readings_of(read_document(path), Wanted())
        assert found.dialect.name == "unsloth-studio" and not found.strangers and not found.problems, path
        assert not [
            f for f in lint_document(read_document(path), Wanted()).findings if f.finding.severity.value == "error"
        ], path
