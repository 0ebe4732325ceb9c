"""Builds the trainer that the plan's task needs, from TRL or transformers."""

from __future__ import annotations

from typing import Any

from lora_advise.errors import LoraAdviseError
from lora_advise.facts import Facts
from lora_advise.runner.data_rows import Row


def trainer_classes(trainer: str) -> tuple[Any, Any]:
    """The trainer and its arguments class. Raises :class:`LoraAdviseError` for one that this runner cannot drive."""
    import trl

    if trainer in {"sft", "dpo", "kto", "reward", "grpo"}:
        name = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "reward": "Reward", "grpo": "GRPO"}[trainer]
        return getattr(trl, f"{name}Trainer"), getattr(trl, f"{name}Config")
    if trainer == "classification":
        from transformers import Trainer, TrainingArguments

        return Trainer, TrainingArguments
    try:
        if trainer == "orpo":
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

            return ORPOTrainer, ORPOConfig
        if trainer == "simpo":
            from trl.experimental.cpo import CPOConfig, CPOTrainer

            return CPOTrainer, CPOConfig
    except ImportError as error:
        raise LoraAdviseError(
            f"the installed trl {trl.__version__} has no {trainer} trainer; use dpo instead."
        ) from error
    raise LoraAdviseError(
        f"this runner has no {trainer} trainer; render the plan for another framework, or use dpo or grpo."
    )


def build_trainer(
    facts: Facts, classes: tuple[Any, Any], arguments: Any, model: Any, adapter: Any, tokenizer: Any,
    rows: tuple[list[Row], list[Row]], callbacks: list[Any],
) -> Any:  # fmt: skip
    """The trainer with its data, wrapped model and callbacks.

    Raises :class:`LoraAdviseError` with the library's own reason when the data or the values do not suit it.
    """
    from jinja2 import TemplateError

    trainer = facts.task.trainer if facts.task else "sft"
    made = classes[0]
    try:
        if trainer == "classification":
            return _classifier(made, arguments, model, adapter, tokenizer, rows, callbacks, _length(facts))
        extra = {"reward_funcs": exact_match} if trainer == "grpo" else {}
        return made(
            model=model,
            args=arguments,
            train_dataset=to_dataset(rows[0]),
            eval_dataset=to_dataset(rows[1]) if rows[1] else None,
            processing_class=tokenizer,
            callbacks=callbacks,
            **({} if adapter is None else {"peft_config": adapter}),
            **extra,
        )
    except (ValueError, TypeError, KeyError, ImportError, NotImplementedError, TemplateError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise LoraAdviseError(f"{made.__name__} refuses the plan or its data: {reason}") from error


def _length(facts: Facts) -> int:
    return facts.train.max_length if facts.train else 512


def to_dataset(rows: list[Row]) -> Any:
    """Rows as a ``datasets.Dataset``."""
    from datasets import Dataset
    from pyarrow import ArrowException

    try:
        return Dataset.from_list(rows)
    except ArrowException as error:
        reason = str(error).splitlines()[0][:200]
        raise LoraAdviseError(f"the rows of the data differ in kind from each other: {reason}") from error


def _classifier(
    made: Any, arguments: Any, model: Any, adapter: Any, tokenizer: Any,
    rows: tuple[list[Row], list[Row]], callbacks: list[Any], length: int,
) -> Any:  # fmt: skip
    from transformers import DataCollatorWithPadding

    ids = model.config.label2id

    def tokenize(rows: list[Row]) -> Any:
        encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=length)
        return to_dataset(
            [
                {"input_ids": tokens, "attention_mask": mask, "labels": ids[str(row["label"])]}
                for tokens, mask, row in zip(encoded["input_ids"], encoded["attention_mask"], rows, strict=True)
            ]
        )

    if adapter is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapter)
    if arguments.gradient_checkpointing:
        model.enable_input_require_grads()
    return made(
        model=model,
        args=arguments,
        train_dataset=tokenize(rows[0]),
        eval_dataset=tokenize(rows[1]) if rows[1] else None,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_accuracy,
        callbacks=callbacks,
    )


def _accuracy(predicted: Any) -> dict[str, float]:
    scores = predicted.predictions[0] if isinstance(predicted.predictions, tuple) else predicted.predictions
    return {"accuracy": float((scores.argmax(-1) == predicted.label_ids).mean())}


def exact_match(completions: list[Any], reference: list[str], **_: Any) -> list[float]:
    """The reward of online training here: 1 when the answer equals the reference apart from case and spaces, else 0."""
    return [float(_plain(said) == _plain(wanted)) for said, wanted in zip(completions, reference, strict=True)]


def _plain(answer: Any) -> str:
    text = answer[-1]["content"] if isinstance(answer, list) else answer
    return " ".join(str(text).lower().split()).strip(" .")
