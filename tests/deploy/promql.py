"""What an expression of PromQL names: metrics, and the labels that it picks or adds up by. As far as our own expressions go."""

from __future__ import annotations

import re

_METRIC = re.compile(r"\b((?:matyan|process)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring) \(([^)]*)\)")
_STRING = re.compile(r'"[^"]*"')


def metrics_of(expression: str) -> dict[str, set[str]]:
    """Metric → labels that its selectors name."""
    found: dict[str, set[str]] = {}
    texts: list[str] = []

    def keep(match: re.Match[str]) -> str:
        texts.append(match.group())
        return '""'

    for name, selectors in _METRIC.findall(_STRING.sub(keep, expression)):
        labels = {re.split("[!=]", part)[0].strip() for part in selectors.split(",")}
        found.setdefault(name, set()).update(labels - {""})
    return found


def grouped(expression: str) -> set[str]:
    """The labels that it adds up by."""
    return {
        label.strip()
        for labels in _GROUPED.findall(expression)
        for label in labels.split(",")
        if label.strip()
    }
