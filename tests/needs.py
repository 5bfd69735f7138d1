"""What a test needs of the machine besides Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

from dev.process import Missing

T = TypeVar("T")


def needed(find: Callable[[], T], variable: str) -> T:
    """What `find` gives; skips with its reason where it is `Missing`, or fails when `variable` is 1."""
    try:
        return find()
    except Missing as reason:
        if os.environ.get(variable) == "1":
            pytest.fail(f"{variable}=1, but {reason}")
        # README: without Java, Maven or Python 3.12 the other tests still count. CI sets the variables.
        pytest.skip(str(reason))
