"""Axolotl's YAML: what plugins and attention settings make of a run."""

from __future__ import annotations

import pytest

from lora_advise.document_read import read_document
from lora_advise.lint_files import Wanted, readings_of

CONFIG = """\
base_model: meta-llama/Llama-3.1-8B
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_linear: true
micro_batch_size: 2
learning_rate: 0.0002
sequence_len: 4096
sample_packing: true
"""
CUT = "plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]\n"
LIGER = "plugins: [axolotl.integrations.liger.LigerPlugin]\n"


def train(more: str):
    ((_, found),) = readings_of(read_document("run.yml", text=CONFIG + more), Wanted())
    assert found.dialect.name == "axolotl"
    return found.facts.train


@pytest.mark.parametrize(
    ("more", "fused"),
    [("", False), (CUT, True), (f"{CUT}cut_cross_entropy: false\n", False), (LIGER, False),
     (f"{LIGER}liger_fused_linear_cross_entropy: true\n", True), ("liger_fused_linear_cross_entropy: true\n", False)],
)  # fmt: skip
def test_plugins_decide_whether_the_logits_are_held(more, fused):
    assert train(more).use_liger_kernel is fused


@pytest.mark.parametrize(
    ("more", "kind"),
    [("", "sdpa"), ("flash_attention: true\n", "flash_attention_2"), ("eager_attention: true\n", "eager"),
     ("attn_implementation: eager\nflash_attention: true\n", "eager")],
)  # fmt: skip
def test_the_stated_attention_is_taken(more, kind):
    assert train(more).attn_implementation == kind
