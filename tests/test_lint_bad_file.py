"""One bad run as six trainers write it: the same defects are named in all of them, each at its line."""

from __future__ import annotations

import pytest

from lora_advise.document_read import read_document
from lora_advise.lint_files import Wanted, lint_document

AXOLOTL = """\
base_model: meta-llama/Llama-3.1-8B
adapter: lora
lora_r: 16
lora_alpha: 512
lora_dropout: 0.5
lora_target_modules: [q_proj]
learning_rate: 0.02
bf16: true
fp16: true
micro_batch_size: 32
gradient_accumulation_steps: 1
sequence_len: 8192
gradient_checkpointing: false
num_epochs: 20
warmup_steps: 0
val_set_size: 0
datasets:
  - path: tatsu-lab/alpaca
    type: alpaca
"""
LLAMAFACTORY = """\
model_name_or_path: meta-llama/Llama-3.1-8B
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_alpha: 512
lora_dropout: 0.5
lora_target: q_proj
dataset: alpaca_en_demo
template: llama3
cutoff_len: 8192
learning_rate: 0.02
bf16: true
fp16: true
per_device_train_batch_size: 32
gradient_accumulation_steps: 1
disable_gradient_checkpointing: true
num_train_epochs: 20
warmup_steps: 0
eval_strategy: "no"
output_dir: saves/bad
"""
TRL = """\
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

peft_config = LoraConfig(
    r=16,
    lora_alpha=512,
    lora_dropout=0.5,
    target_modules=["q_proj"],
    task_type="CAUSAL_LM",
)
args = SFTConfig(
    output_dir="out",
    learning_rate=0.02,
    bf16=True,
    fp16=True,
    per_device_train_batch_size=32,
    gradient_accumulation_steps=1,
    max_length=8192,
    gradient_checkpointing=False,
    num_train_epochs=20,
    warmup_steps=0,
    eval_strategy="no",
)
trainer = SFTTrainer(
    model="meta-llama/Llama-3.1-8B",
    args=args,
    train_dataset=load_dataset("tatsu-lab/alpaca", split="train"),
    peft_config=peft_config,
)
trainer.train()
"""
UNSLOTH = """\
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer
from unsloth import FastLanguageModel

model, tokenizer = FastLanguageModel.from_pretrained(
    model_name="meta-llama/Llama-3.1-8B",
    max_seq_length=8192,
    load_in_4bit=False,
)
model = FastLanguageModel.get_peft_model(
    model,
    r=16,
    lora_alpha=512,
    lora_dropout=0.5,
    target_modules=["q_proj"],
    use_gradient_checkpointing=False,
)
trainer = SFTTrainer(
    model=model,
    tokenizer=tokenizer,
    train_dataset=load_dataset("tatsu-lab/alpaca", split="train"),
    args=SFTConfig(
        learning_rate=0.02,
        bf16=True,
        fp16=True,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=1,
        max_length=8192,
        gradient_checkpointing=False,
        num_train_epochs=20,
        warmup_steps=0,
        eval_strategy="no",
        output_dir="out",
    ),
)
trainer.train()
"""
SWIFT = """\
swift sft \\
    --model meta-llama/Llama-3.1-8B \\
    --tuner_type lora \\
    --dataset AI-ModelScope/alpaca-gpt4-data-en \\
    --lora_rank 16 \\
    --lora_alpha 512 \\
    --lora_dropout 0.5 \\
    --target_modules q_proj \\
    --learning_rate 0.02 \\
    --bf16 true \\
    --fp16 true \\
    --per_device_train_batch_size 32 \\
    --gradient_accumulation_steps 1 \\
    --max_length 8192 \\
    --gradient_checkpointing false \\
    --num_train_epochs 20 \\
    --warmup_ratio 0 \\
    --eval_strategy no \\
    --split_dataset_ratio 0
"""
TORCHTUNE = """\
model:
  _component_: torchtune.models.llama3_1.lora_llama3_1_8b
  lora_attn_modules: ['q_proj']
  apply_lora_to_mlp: False
  apply_lora_to_output: False
  lora_rank: 16
  lora_alpha: 512
  lora_dropout: 0.5
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  path: models/tokenizer.model
  max_seq_len: 8192
dataset:
  _component_: torchtune.datasets.alpaca_dataset
  packed: False
optimizer:
  _component_: torch.optim.AdamW
  lr: 0.02
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
batch_size: 32
gradient_accumulation_steps: 1
epochs: 20
dtype: bf16
enable_activation_checkpointing: False
device: cuda
"""
FILES = {
    "axolotl": ("bad.yaml", AXOLOTL), "llamafactory": ("bad.yaml", LLAMAFACTORY), "trl": ("bad.py", TRL),
    "unsloth": ("bad.py", UNSLOTH), "ms-swift": ("bad.sh", SWIFT), "torchtune": ("bad.yaml", TORCHTUNE),
}  # fmt: skip
DEFECTS = {
    "scale-times-rate-diverges": ("0.02", "512"),
    "dropout-above-published": ("0.5",),
    "attention-only-targets": ("q_proj",),
    "checkpointing-off-on-long-batch": ("32", "8192"),
    "passes-without-evaluation": ("20",),
    "high-rate-without-warmup": ("0.02",),
    "precision-flags-conflict": ("True", "true"),
}
"""Rules, and words one of which stands on the line where each is reported."""
ABSENT = {("torchtune", "precision-flags-conflict")}
"""torchtune has one ``dtype`` in place of two flags."""


@pytest.mark.parametrize("trainer", FILES)
def test_the_same_defects_at_the_right_lines(trainer):
    name, text = FILES[trainer]
    report = lint_document(read_document(name, text=text), Wanted())
    assert report.dialects == (trainer,)
    found = {item.finding.rule: item for item in report.shown}
    lines = text.splitlines()
    for rule, words in DEFECTS.items():
        if (trainer, rule) in ABSENT:
            continue
        assert rule in found, (rule, sorted(found))
        marked = " ".join(lines[mark.span.line - 1] for mark in found[rule].marks)
        assert any(word in marked for word in words), (rule, marked)
        assert lines[found[rule].line - 1].strip(), rule
    assert found["scale-times-rate-diverges"].finding.severity.value == "error"


@pytest.mark.parametrize("trainer", FILES)
def test_the_flagship_offers_both_ways_back_and_the_first_mends(trainer):
    from lora_advise.lint_mend import mended_file

    name, text = FILES[trainer]
    text = text.replace("0.02", "0.002")
    report = lint_document(read_document(name, text=text), Wanted())
    (flagship,) = [item for item in report.shown if item.finding.rule == "scale-times-rate-diverges"]
    assert "512/16 = 32" in flagship.finding.message
    assert flagship.finding.changes
    after, made = mended_file(report, lambda document: lint_document(document, Wanted()), unsafe=True)
    assert made
    assert "scale-times-rate-diverges" not in {item.finding.rule for item in after.shown}
