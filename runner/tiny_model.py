"""Make the built-in tiny model and the sample data: ``python -m lora_advise.runner.tiny_model OUT_DIR``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.runner.tiny_text import ASSISTANT, END, SYSTEM, USER, documents, write_sample

SEED = 20
VOCABULARY = 1024
"""At most; the text has fewer different words than that, and every word is one token."""
BATCH = 32
"""Conversations."""
POSITIONS = 256
STEPS = 566
PEAK_RATE = 3e-3
WARMUP = 50
DECAY = 250
"""Steps over which the rate falls to zero at the end; constant before. Short runs give a quarter to each of both."""
PAD = "<|pad|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

README = """# The built-in tiny model

A Llama of {parameters:,} parameters in bfloat16, for `lora-advise --run` without a network. It is a demonstration: it
knows a small made-up world, answers questions about the things in it in full sentences, and adds digits.

Made by `python -m lora_advise.runner.tiny_model OUT_DIR` from random weights (seed {seed}) in {steps:,} steps of
{batch} conversations, which the same script generates; no outside text or model went in. Final training loss
{loss:.3f} nats a token of an answer. The tokenizer (byte-level BPE, {vocabulary:,} tokens) was trained on the same text.

License: that of the package (Apache-2.0).
"""


def make_tokenizer(seed: int = SEED) -> Any:
    """A byte-level BPE tokenizer trained on generated text, with a chat template that marks the assistant's answers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(documents(seed), 4_000), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: Any, seed: int = SEED) -> Any:
    """A Llama of random parameters that fits that tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batches(tokenizer: Any, seed: int, size: int = BATCH) -> Iterator[tuple[Any, Any]]:
    """Token ids and labels of ``size`` conversations, padded on the right; only the answers have labels."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    start, end = tokenizer.convert_tokens_to_ids([ASSISTANT, END])
    texts = documents(seed)
    while True:
        rows, labels = [], []
        for text in islice(texts, size):
            ids = tokenizer(text)["input_ids"]
            answering, kept = False, []
            for token in ids:
                kept.append(token if answering else -100)
                answering = token == start or (answering and token != end)
            rows.append(torch.tensor(ids))
            labels.append(torch.tensor(kept))
        yield (
            pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
            pad_sequence(labels, batch_first=True, padding_value=-100),
        )


def pretrain(
    model: Any, tokenizer: Any, steps: int, *, seed: int = SEED, report: Callable[[int, float], None] | None = None
) -> float:
    """Train on generated conversations; the mean loss of the last twentieth of the steps, in nats a token of an answer."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    warmup, decay = (max(1, min(length, steps // 2)) for length in (WARMUP, DECAY))
    losses: list[float] = []
    model.train()
    for step, (ids, labels) in enumerate(islice(batches(tokenizer, seed + 1), steps)):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / warmup, (steps - step) / decay)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if report and (step % 50 == 0 or step == steps - 1):
            report(step, losses[-1])
    tail = losses[-max(1, steps // 20) :]
    return sum(tail) / len(tail)


def build(
    out: Path, steps: int = STEPS, *, seed: int = SEED, report: Callable[[int, float], None] | None = None
) -> float:
    """Write ``out/tiny`` (model and tokenizer) and ``out/sample`` (data); the final pretraining loss."""
    import torch

    tokenizer = make_tokenizer(seed)
    model = make_model(tokenizer, seed)
    loss = pretrain(model, tokenizer, steps, seed=seed, report=report)
    model.eval().to(torch.bfloat16)
    model.generation_config.do_sample = False
    tiny = out / "tiny"
    model.save_pretrained(tiny)
    tokenizer.save_pretrained(tiny)
    words = README.format(
        parameters=model.num_parameters(),
        seed=seed,
        steps=steps,
        batch=BATCH,
        loss=loss,
        vocabulary=len(tokenizer),
    )
    (tiny / "README.md").write_text(words, encoding="utf-8", newline="\n")
    write_sample(out / "sample", seed)
    return loss


def main(arguments: list[str] | None = None) -> int:
    """Build into the folder that the command line names."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1 or given[0].startswith("-"):
        raise LoraAdviseError(
            "tiny_model: name one folder to write to, as in `python -m lora_advise.runner.tiny_model OUT_DIR`."
        )
    started = time.perf_counter()

    def report(step: int, loss: float) -> None:
        print(f"step {step:5,}  loss {loss:.3f}  {time.perf_counter() - started:6.0f} s", flush=True)

    loss = build(Path(given[0]), report=report)
    print(f"Wrote {given[0]}: final loss {loss:.3f} nats a token, {time.perf_counter() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
