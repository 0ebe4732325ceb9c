"""The command ``lora-advise lint``: which files, which rules, what is known beside the files, mending, the exit code."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_advise.document import MAX_BYTES, Document
from lora_advise.errors import LoraAdviseError
from lora_advise.finding import Severity
from lora_advise.lint_files import NoConfig, Wanted, lint_document
from lora_advise.lint_report import FileReport, LintReport, Located, Unread
from lora_advise.lint_settings import Level, Settings, find_settings, read_settings
from lora_advise.rule import Rule

STDIN = "-"
_RANK = {"error": 0, "warning": 1, "note": 2, "never": -1}


def lint_command(args: Namespace) -> int:
    """Run the command; 0 without findings of that severity, 1 with one, 2 where a named file cannot be judged."""
    from lora_advise.cli import console, hand_over
    from lora_advise.lint_formats import render

    settings = settings_of(args)
    report = lint_paths(args, settings)
    if args.add_ignore:
        from lora_advise.lint_ignore import add_ignores

        return add_ignores(report, args.add_ignore)
    if args.fix or args.unsafe_fixes or args.diff:
        from lora_advise.lint_mend import mend

        report = mend(report, args, lambda document: judged(document, args, settings))
        if args.diff or (args.paths == [STDIN] and not args.output):
            return _code(report, args, settings)
    terminal = None if args.output else console()
    hand_over(render(report, args.format, statistics=args.statistics, terminal=terminal), args.output)
    return _code(report, args, settings)


def settings_of(args: Namespace) -> Settings:
    """The settings file that counts: the one that is named, else the nearest to the first path."""
    if args.isolated:
        return Settings()
    if args.config:
        found = read_settings(Path(args.config))
        return found or Settings()
    first = Path.cwd() if args.paths[0] == STDIN else Path(args.paths[0])
    return find_settings(first if first.is_dir() else first.parent)


def lint_paths(args: Namespace, settings: Settings) -> LintReport:
    """Read and judge every file. Raises LoraAdviseError for a named file that cannot be read or judged."""
    from lora_advise.document_read import TooLargeError, read_document
    from lora_advise.lint_paths import candidates, could_be_config

    files, unread = [], []
    if args.paths == [STDIN]:
        files.append(_named(read_document(args.stdin_filename, text=_standard_input()), args, settings))
        return LintReport(tuple(files))
    for candidate in candidates(args.paths, (*settings.exclude, *args.exclude)):
        name = str(candidate.path)
        if candidate.named and not args.only_configs:
            files.append(_named(read_document(candidate.path), args, settings))
            continue
        try:
            if not could_be_config(candidate.path, 16 * MAX_BYTES):
                unread.append(Unread(name, "no config", "no word of a training config in it"))
                continue
            report = judged(read_document(candidate.path), args, settings)
        except TooLargeError as error:
            unread.append(Unread(name, "too large", " ".join(str(error).split())))
            continue
        except (LoraAdviseError, OSError) as error:
            unread.append(Unread(name, "unreadable", " ".join(str(error).split())))
            continue
        if isinstance(report, NoConfig):
            unread.append(Unread(name, "no config", report.why))
        else:
            files.append(report)
    return LintReport(tuple(files), tuple(unread))


def _standard_input() -> str:
    raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise LoraAdviseError("-: more than 1 MiB came in; a config has a few kilobytes.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LoraAdviseError(f"-: byte {error.start} is not UTF-8; convert it first.") from None


def _named(document: Document, args: Namespace, settings: Settings) -> FileReport:
    report = judged(document, args, settings)
    if isinstance(report, NoConfig):
        from lora_advise.dialects import names

        raise LoraAdviseError(
            f"{document.name}: {report.why}; --dialect says whose it is ({', '.join(names())}), if it is one."
        )
    return report


def judged(document: Document, args: Namespace, settings: Settings) -> FileReport | NoConfig:
    """The report of one document, its suppressions and the settings applied."""
    wanted = Wanted(
        args.dialect, {**_beside(document), **versions_of(args, settings)}, _given(args, settings), args.pedantic or settings.pedantic,
        chosen_rules(args, settings),
    )  # fmt: skip
    report = lint_document(document, wanted)
    if isinstance(report, NoConfig):
        return report
    leveled = [f for f in (_leveled(found, settings.severity) for found in report.findings) if f is not None]
    found = tuple(_per_file(item, document.name, settings) for item in leveled)
    return report._replace(findings=found)


def _beside(document: Document) -> Mapping[str, str]:
    from lora_advise.lint_versions import versions_beside

    return versions_beside(Path(document.name).resolve().parent) if Path(document.name).is_file() else {}


def chosen_rules(args: Namespace, settings: Settings) -> tuple[Rule, ...]:
    """The rules that select and ignore leave. Raises LoraAdviseError for a word that means none."""
    from lora_advise.rules import RULES
    from lora_advise.suppressions import known_word, selects

    rules = (*RULES, *_plugins(settings))
    chosen = _words(args.select) or settings.select
    ignored = (
        *settings.ignore,
        *_words(args.ignore),
        *(name for name, level in settings.severity.items() if level == "off"),
    )
    for word in (*chosen, *ignored, *settings.severity, *(r for row in settings.per_file for r in row.rules)):
        if not known_word(word, rules):
            raise LoraAdviseError(f"{word[:60]!r} is no rule, code or family; lora-advise rule --all lists them.")
    found = tuple(r for r in rules if not chosen or any(selects(word, r.name, r.code) for word in chosen))
    return tuple(r for r in found if not any(selects(word, r.name, r.code) for word in ignored))


def _words(given: list[str]) -> tuple[str, ...]:
    return tuple(word.strip() for text in given for word in text.split(",") if word.strip())


def _plugins(settings: Settings) -> tuple[Rule, ...]:
    if not settings.plugins:
        return ()
    from lora_advise.own_rules import load_rules

    return load_rules(settings.plugins)


def versions_of(args: Namespace, settings: Settings) -> Mapping[str, str]:
    """``axolotl==0.18`` from the command line, then the settings."""
    found = dict(settings.versions)
    for word in args.framework:
        name, _, version = word.partition("==")
        if not name or not version:
            raise LoraAdviseError(f"--framework {word[:60]}: write it as NAME==VERSION, such as axolotl==0.18.")
        found[name.strip().lower()] = version.strip()
    return found


def _given(args: Namespace, settings: Settings) -> dict[str, Any]:
    """Sections of the facts that the command line or the settings say."""
    from lora_advise.lint_given import given_sections

    return given_sections(
        gpu=args.gpu or settings.gpu, gpus=args.gpus or settings.gpus, model=args.model or settings.model,
        task=args.task or settings.task, examples=args.examples or settings.examples,
        tokens=args.tokens_per_example, data=args.data,
    )  # fmt: skip


def _leveled(found: Located, severity: Mapping[str, Level]) -> Located | None:
    """The finding at the severity that the team gave to its rule."""
    from lora_advise.suppressions import selects

    for word, level in severity.items():
        if selects(word, found.finding.rule, found.finding.code):
            return None if level == "off" else found._replace(finding=found.finding._replace(severity=Severity(level)))
    return found


def _per_file(found: Located, name: str, settings: Settings) -> Located:
    from fnmatch import fnmatch

    from lora_advise.suppressions import selects

    for row in settings.per_file:
        hit = any(selects(word, found.finding.rule, found.finding.code) for word in row.rules)
        if hit and (
            fnmatch(name, row.pattern) or fnmatch(Path(name).name, row.pattern) or fnmatch(name, f"*/{row.pattern}")
        ):
            return found._replace(suppressed=row.reason)
    return found


def _code(report: LintReport, args: Namespace, settings: Settings) -> int:
    level = _RANK[args.fail_on or settings.fail_on or "error"]
    worst = min((_RANK[f.finding.severity.value] for f in shown(report)), default=9)
    return 1 if worst <= level else 0


def shown(report: LintReport) -> Iterator[Located]:
    """Every finding that nobody suppressed."""
    return (found for file in report.files for found in file.shown)
