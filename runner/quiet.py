"""Silence for the libraries of a run: their bars, notices and telemetry, so that our own lines can be read."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOUD = ("transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "torch", "huggingface_hub")


_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "BITSANDBYTES_NOWELCOME": "1",
}
"""Read when these libraries are first imported, and by TRL each time that a trainer is made."""


_OPTIONAL_KERNEL = ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward")
"""The logger and the note: a faster kernel from the hub, without which the backend computes the same. It comes whenever
bitsandbytes happens to be imported first, so it is kept back for good."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Only errors of the training libraries are shown inside; settings of the process are put back at the end."""
    levels = {name: logging.getLogger(name).level for name in LOUD}
    logging.getLogger(_OPTIONAL_KERNEL[0]).addFilter(_missed_kernel)
    with _environment(_ENVIRONMENT):
        _only_errors()
        from huggingface_hub import constants

        _import_uncompiled()
        _only_errors()  # transformers gives its logger a level of its own when it is imported
        _bars(shown=False)
        telemetry, constants.HF_HUB_DISABLE_TELEMETRY = constants.HF_HUB_DISABLE_TELEMETRY, True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            constants.HF_HUB_DISABLE_TELEMETRY = telemetry
            _bars(shown=True)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _only_errors() -> None:
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)


def _missed_kernel(record: logging.LogRecord) -> bool:
    """Whether a record of bitsandbytes' CPU backend is anything but the note that an optional kernel is not installed."""
    return not record.getMessage().startswith(_OPTIONAL_KERNEL[1])


@contextmanager
def settled_heap() -> Iterator[Callable[[], None]]:
    """No garbage collection until the yielded function is called, and none of what was made before it afterwards.

    Importing torch and its relatives makes some 800,000 objects that live to the end; accelerate collects before every
    training and would walk through all of them, as would each full collection.
    """
    collecting = gc.isenabled()
    gc.disable()

    def settle() -> None:
        gc.freeze()
        if collecting:
            gc.enable()

    try:
        yield settle
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _import_uncompiled() -> None:
    """Import PEFT while torch.compile does nothing.

    PEFT imports bitsandbytes, which decorates four fallback kernels with torch.compile; that alone loads torch's
    compiler. Those kernels serve devices without kernels of their own.
    """
    with _environment({"TORCHDYNAMO_DISABLE": "1"}):
        import peft  # noqa: F401


def _bars(*, shown: bool) -> None:
    import datasets
    from transformers.utils import logging as transformers_logging

    if shown:
        datasets.enable_progress_bars()
        transformers_logging.enable_progress_bar()
    else:
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
