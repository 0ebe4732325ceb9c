"""What the classes of transformers cannot do: attention kernels that some lack, and checkpoints stored below 16 bits."""

from __future__ import annotations

_NO_SDPA = (
    "big_bird bigbird_pegasus blip bloom canine convbert cpmant deberta deberta-v2 deepseek_v4 falcon_mamba flaubert flint "
    "fnet fsmt funnel gemma2 git got_ocr2 gpt_neo gpt_neox_japanese gpt_oss granite_swa granitemoe_swa hy_v4 hy_v4_vl ibert "
    "inkling2 inkling2_loop inkling2_loop_text inkling2_text layoutlmv2 led lilt longformer longt5 luke mamba mamba2 markuplm "
    "megatron-bert mimo_v2_flash mpnet mpt mra mvp nllb-moe nystromformer openai-gpt pegasus_x perceiver pp_chart2table "
    "prophetnet reformer rembert roformer rwkv squeezebert switch_transformers t5gemma tapas trocr vaultgemma xglm xlm xlnet "
    "xlstm yoso"
)
NO_SDPA = frozenset(_NO_SDPA.split())
"""Model types whose classes refuse ``attn_implementation="sdpa"`` (``_supports_sdpa`` in transformers 5.24)."""

_FLASH = "flint gemma2 gpt_neo gpt_oss granite_swa granitemoe_swa mimo_v2_flash pegasus_x t5gemma vaultgemma"
FLASH_WITHOUT_SDPA = frozenset(_FLASH.split())
"""Those of them that take ``flash_attention_2`` (``_supports_flash_attn``)."""

STORED: dict[str, str] = {
    **dict.fromkeys(
        ("openai/gpt-oss-20b", "openai/gpt-oss-120b", "openai/gpt-oss-safeguard-20b", "openai/gpt-oss-safeguard-120b"), "mxfp4"
    ),
    **dict.fromkeys(
        ("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3-Base", "deepseek-ai/DeepSeek-V3-0324", "deepseek-ai/DeepSeek-V3.1",
         "deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-R1-0528", "deepseek-ai/DeepSeek-V3.2",
         "deepseek-ai/DeepSeek-V3.2-Exp", "deepseek-ai/DeepSeek-V3.2-Speciale", "deepseek-ai/DeepSeek-V4-Flash",
         "moonshotai/Kimi-K2-Instruct", "moonshotai/Kimi-K2-Base", "moonshotai/Kimi-K2-Instruct-0905",
         "MiniMaxAI/MiniMax-M2", "MiniMaxAI/MiniMax-M2.1", "MiniMaxAI/MiniMax-M2.5", "MiniMaxAI/MiniMax-M2.7",
         "XiaomiMiMo/MiMo-V2-Flash", "mistralai/Ministral-3-3B-Instruct-2512", "mistralai/Ministral-3-8B-Instruct-2512",
         "mistralai/Ministral-3-14B-Instruct-2512"), "fp8",
    ),
    "Qwen/Qwen3-32B-AWQ": "awq",
}  # fmt: skip
"""Ids of the catalogue whose weights are published below 16 bits, by transformers' ``quant_method``.

gpt-oss, DeepSeek (V3 style and V4 style) and MiniMax are named in the quantizers of transformers 5.24; the others go by
their makers' model cards as far as these are known, and were not read again. A config.json says it itself.
"""

NO_FOUR_BITS = frozenset(("falcon",))
"""Model types whose linear layers are a class of their own: transformers replaces ``nn.Linear`` by exact type, so that
nothing of them gets 4 bits (``replace_with_bnb_linear``; seen in traces of transformers 5.24)."""

DEQUANTIZED = ("mxfp4", "fp8")
"""Formats that transformers can turn into 16-bit weights while it loads (``dequantize=True``)."""

OWN = "bitsandbytes"
"""The format that QLoRA itself uses: such a checkpoint is a 4-bit base already."""


def attention_refused(model_type: str, kernel: str) -> bool:
    """Whether the classes of that type refuse this ``attn_implementation``."""
    if model_type not in NO_SDPA:
        return False
    return kernel == "sdpa" or (kernel == "flash_attention_2" and model_type not in FLASH_WITHOUT_SDPA)


def foreign_format(stored: str | None) -> bool:
    """Whether the checkpoint is quantized by something that bitsandbytes cannot quantize again."""
    return stored is not None and stored != OWN
