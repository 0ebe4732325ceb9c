"""Rules about the comments that silence rules."""

from __future__ import annotations

from collections.abc import Iterator

from lora_advise.finding import Confidence, Hit, Rewrite, Severity
from lora_advise.rule import rule
from lora_advise.suppressions import Silence


@rule("suppression-unknown", "SUP1501", Severity.WARNING, Confidence.FACT, ("file-itself",))
def suppression_unknown(comments: Silence) -> Iterator[Hit]:
    """A comment silences a rule that does not exist.

    Why: a misspelt name silences nothing, and the finding that it was meant for is still there or never was.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_target_linear: true
            learning_rate: 0.0002  # lora-advise: ignore[rate-too-hihg] measured on our data
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_target_linear: true
            learning_rate: 0.0002
    Evidence: the comment's words are compared with the names, codes and families of all rules.
    Known problems: a rule of a team's own package is known only where the settings name the package.
    """
    for suppression, word, near in comments.unknown:
        hint = f"; did you mean {near}?" if near else "; lora-advise rule --all lists them."
        yield Hit(
            f"{word[:60]!r} is no rule, code or family, so this comment silences nothing{hint}",
            (f"comment.{suppression.comment.line}",),
        )


@rule("suppression-unused", "SUP1502", Severity.WARNING, Confidence.FACT, ("file-itself",))
def suppression_unused(comments: Silence) -> Iterator[Hit]:
    """A comment silences a rule that has nothing to say there.

    Why: what it excused has been mended, and the comment would hide the same mistake when it comes back.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_target_linear: true
            learning_rate: 0.0002  # lora-advise: ignore[scale-times-rate-diverges] was 0.02 once
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            lora_target_linear: true
            learning_rate: 0.0002
    Evidence: the rule was applied to the file and found nothing on that line.
    Known problems: a rule that was skipped because something is unknown, or that is switched off, does not count.
    """
    for suppression, word in comments.unused:
        yield Hit(
            f"{word} finds nothing here, so the comment is not needed any more; remove it.",
            (f"comment.{suppression.comment.line}",),
            rewrites=(Rewrite(suppression.comment, "remove the comment", drop=True, safe=True),)
            if len(suppression.rules) == 1
            else (),
        )


@rule("suppression-without-reason", "SUP1503", Severity.NOTE, Confidence.CONVENTION, ("file-itself",))
def suppression_without_reason(comments: Silence) -> Iterator[Hit]:
    """A comment silences a rule and does not say why.

    Why: who reads the file next cannot tell whether the reason still holds.
    Example:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            learning_rate: 0.02  # lora-advise: ignore[scale-times-rate-diverges]
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            micro_batch_size: 16
    Instead:
        axolotl: |
            base_model: meta-llama/Llama-3.1-8B
            adapter: lora
            learning_rate: 0.02  # lora-advise: ignore[scale-times-rate-diverges] we study divergence
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            micro_batch_size: 16
    Evidence: none; a convention of linters.
    Known problems: none.
    """
    for suppression in comments.all:
        if suppression.rules and not suppression.reason:
            yield Hit(
                "This comment gives no reason; write one after the bracket.", (f"comment.{suppression.comment.line}",)
            )


SUPPRESSION_RULES = (suppression_unknown, suppression_unused, suppression_without_reason)
