"""Rules about values that a trainer cannot take as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from lora_advise.finding import Confidence, Hit, Rewrite, Severity
from lora_advise.reading import Reading
from lora_advise.rule import rule
from lora_advise.rules.keys import name_of, place, shown


@rule("value-unreadable", "KEY1105", Severity.ERROR, Confidence.FACT, ("file-itself",))
def value_unreadable(config: Reading) -> Iterator[Hit]:
    """A value cannot be what its key takes.

    Why: the trainer stops at it when it parses the file, or later with a message that does not name the key.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: sixteen
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            learning_rate: 0.0002
            micro_batch_size: 16
    Evidence: the types are those that the trainer's own code declares.
    Known problems: a placeholder that something else fills in before the run is not told from a mistake, unless it looks
        like one ($NAME, {{ name }}, <name>).
    """
    for problem in config.problems:
        yield Hit(
            f"{problem.key} is {shown(problem.entry)}; {config.dialect.title} needs {problem.wanted}.",
            (place(problem.entry),),
        )


@rule("number-as-text", "KEY1106", Severity.ERROR, Confidence.FACT, ("file-itself",))
def number_as_text(config: Reading) -> Iterator[Hit]:
    """A number is text to the reader that this trainer uses, and the trainer does not turn it back.

    Why: YAML 1.1 reads 3e-4 as text, since it wants a dot in the number and a sign in the exponent, and a number in quotes is
        text in any format. A parser that hands the value on as it comes lets the run stop at the first comparison.
    Example:
        hf: |
            {"model_name_or_path": "mine", "lora_r": 16, "lora_alpha": 32, "per_device_train_batch_size": 16,
             "learning_rate": "2e-4", "bf16": true, "num_train_epochs": 1}
    Instead:
        hf: |
            {"model_name_or_path": "mine", "lora_r": 16, "lora_alpha": 32, "per_device_train_batch_size": 16,
             "learning_rate": 2e-4, "bf16": true, "num_train_epochs": 1}
    Evidence: HfArgumentParser.parse_yaml_file of transformers 5.24 gives the text "3e-4" for 3e-4, and TrainingArguments or the
        optimizer then raise a TypeError. Axolotl, LLaMA-Factory, ms-swift, torchtune and TRL's own parser turn it back.
        A number in quotes also breaks LLaMA-Factory's files, which parse_dict leaves as they are, and a program: PEFT 0.21
        raises a TypeError at LoraConfig(r="16"), and torch's AdamW at lr="1e-4".
    Known problems: only for trainers that were seen to break on it. In JSON a bare 2e-4 is a number.
    """
    if config.dialect.text_numbers == "fine" or config.config.shape not in ("mapping", "calls"):
        return
    program = config.config.shape == "calls"
    yaml = config.document.lower().endswith((".yaml", ".yml"))
    for lens in config.dialect.lenses:
        entry = config.written.get(lens.name)
        if entry is None or lens.kind not in ("number", "count"):
            continue
        quoted = (entry.quoted or program) and isinstance(entry.value, str) and _is_number(entry.value)
        plain = config.dialect.text_numbers == "break" and yaml and not entry.quoted
        bare = plain and isinstance(entry.value, float) and _text_in_yaml_1_1(entry.text)
        if quoted or bare:
            number = float(entry.value)
            whole = lens.kind == "count" or str(entry.value).strip().isdigit()
            written = repr(entry.value)[:42] if quoted else entry.text[:40]
            yield Hit(
                f"{name_of(entry)}: {written} is text to {config.dialect.title}, which does not turn it into a number; write {_plain(number)}.",
                (place(entry),),
                rewrites=(
                    Rewrite(entry, f"write {_plain(number)}", value=int(number) if whole else number, safe=True),
                ),
            )


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def _text_in_yaml_1_1(text: str) -> bool:
    """Whether YAML 1.1 takes that number for text: an exponent without a dot before it or without a sign."""
    mantissa, mark, exponent = text.lower().partition("e")
    return bool(mark) and ("." not in mantissa or exponent[:1] not in "+-")


def _plain(number: float) -> str:
    text = f"{number:g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
    return text


VALUE_RULES = (value_unreadable, number_as_text)
