"""What the frontier takes at its limits is stored, whole."""

from __future__ import annotations

from typing import Any

import fdb.tuple
import pytest
from hypothesis import example, given

from tests.codec.test_limits import (
    OBJECT,
    RECORD,
    RUN,
    hparams,
    reason,
    validate,
    values,
    verdict,
)
from tests.ledger import Ledger

pytestmark = pytest.mark.usefixtures("bodies")


def stored(message: dict[str, Any]) -> Ledger:
    (record,) = validate(message).records
    ledger = Ledger()
    ledger.apply(record)
    assert max(len(value) for value in ledger.store.rows.values()) <= 100_000
    return ledger


@pytest.mark.parametrize("size", [89_000, 90_001, 99_900, 99_970])
def test_what_is_taken_of_a_large_type_is_stored(size: int) -> None:
    value = {"data": "x" * 300_000, "type": "é" * (size // 2)}
    (record,) = validate(OBJECT | {"value": value}).records
    ledger = Ledger()
    ledger.apply(record)
    ((_, _, _, stored),) = ledger.objects("n", run=RUN)
    assert stored == value
    assert max(len(row) for row in ledger.store.rows.values()) <= 100_000
    assert reason(OBJECT | {"value": {**value, "type": "x" * 99_971}}).startswith("value: type: ")


@pytest.mark.parametrize("size", [150_000, 900_000])
def test_a_long_line_is_stored(size: int) -> None:
    line = "é" + "x" * size
    ledger = stored({"type": "log_terminal_line", "line": line, "step": 3})
    assert [row[3] for row in ledger.objects("logs", run=RUN)] == [line]


@pytest.mark.parametrize("arguments", [{"a": "x" * 120_000}, {"a": [1.5] * 150_000}])
def test_a_record_with_long_arguments_is_stored(arguments: dict[str, Any]) -> None:
    ledger = stored(RECORD | {"extra_args": arguments, "logger_info": ["y" * 30_000]})
    ((_, _, _, value),) = ledger.objects("__log_records", run=RUN)
    assert value["args"] == arguments
    assert value["logger_info"] == ["y" * 30_000]


@given(values.filter(lambda value: verdict(value) == ""))
@example({"hparams": {"a": "x" * 4_100, "lr": 0.1, "seed": 1}})
@example({"hparams": {"a" * 3_900: 1}})
def test_hparams_that_are_taken_are_stored(value: dict[str, Any]) -> None:
    """Each key and value within its limit; a text too long for the index only stays out of it."""
    ledger = stored(hparams(value))
    assert ledger.attrs(RUN) == value
    wanted = {
        ("hparam", name, scalar)
        for name, scalar in (
            value["hparams"].items() if isinstance(value.get("hparams"), dict) else []
        )
        if isinstance(scalar, str | int | float)
        and len(fdb.tuple.pack(("_rev", RUN, "hparam", name, scalar, RUN))) < 4_096
    }
    assert {fact for fact in ledger.facts(RUN) if fact[0] == "hparam"} == wanted


@pytest.mark.parametrize(
    "value",
    [
        {"__system_params": {"env_variables": {"__": 1, "__leaf_": 2, "_": "__leaf__"}}},
        {"hparams": {"__blobs__": 1, "a": ["__blobs__", "__empty_dict__"]}},
        {},
    ],
)
def test_names_that_are_only_like_reserved_ones_are_stored(value: dict[str, Any]) -> None:
    assert stored(hparams(value)).attrs(RUN) == value
