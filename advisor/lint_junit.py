"""A lint report as JUnit's XML: a suite for each file, a failing case for each error and warning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lora_advise.finding import Severity
from lora_advise.lint_places import path_of
from lora_advise.lint_report import FileReport, LintReport, Located, Unread
from lora_advise.lint_words import clean, fix_words, message, setting

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ILLEGAL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010fffd]")
"""What XML 1.0 forbids or discourages."""


def render(report: LintReport) -> str:
    """The report as an XML document. Notes pass: a reader of JUnit's files stops at any failure."""
    from xml.etree.ElementTree import Element, indent, tostring

    root = Element("testsuites", name="lora-advise")
    suites = [*map(_suite, report.files), *map(_unread, report.unread)]
    root.extend(suites)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def legal(text: str) -> str:
    """The text without characters that XML forbids."""
    return _ILLEGAL.sub("", text)


def _suite(file: FileReport) -> Element:
    cases = [_case(file, found) for found in file.shown] or [_made("testcase", name="no findings", **_class(file))]
    suite = _made("testsuite", name=path_of(file.document.name))
    suite.extend(cases)
    return _counted(suite)


def _counted(suite: Element) -> Element:
    suite.set("tests", str(len(suite)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"./testcase/{tag}"))))
    return suite


def _class(file: FileReport) -> dict[str, str]:
    path = path_of(file.document.name)
    return {"classname": path, "file": path}


def _case(file: FileReport, found: Located) -> Element:
    finding = found.finding
    words = message(found)
    case = _made("testcase", name=f"{finding.code} {finding.rule}", line=str(found.line), **_class(file))
    if finding.severity is Severity.NOTE:
        told = _made("system-out")
    else:
        told = _made("failure", type=finding.severity.value, message=words)
    told.text = legal("\n".join(_told(file, found, words)))
    case.append(told)
    return case


def _told(file: FileReport, found: Located, words: str) -> list[str]:
    fix = fix_words(found)
    return [
        f"{clean(path_of(file.document.name))}:{found.line}:{found.column}: {found.finding.severity.value}: {words}",
        *(setting(mark) for mark in found.marks),
        *(clean(text, 300) for text in found.inherited),
        *([f"Fix: {fix}."] if fix else []),
        f"Sources: {', '.join(found.finding.sources) or 'none'}",
    ]


def _unread(one: Unread) -> Element:
    path = path_of(one.name)
    suite, case = _made("testsuite", name=path), _made("testcase", name=one.kind, classname=path, file=path)
    case.append(_made("skipped" if one.kind == "no config" else "error", message=clean(one.why)))
    suite.append(case)
    return _counted(suite)


def _made(tag: str, **attributes: str) -> Element:
    from xml.etree.ElementTree import Element

    return Element(tag, {name: legal(clean(value)) for name, value in attributes.items()})
