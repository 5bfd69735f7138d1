"""`matyan dlq`: the records that could not be applied, in a data folder or in Kafka's dead-letter topics.

Where they stand and how they are sent again is `reader/`'s and `broker/kafka/letters.py`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from matyan import reader
from matyan.cli import views
from matyan.cli.flags import as_json_option, place_options
from matyan.cli.output import reading
from matyan.errors import MatyanError
from matyan.service import terminal
from matyan.store.open import ClusterName, StoreName

if TYPE_CHECKING:
    from matyan.broker.kafka.letters import KafkaLetters

    Letters = reader.Reader | KafkaLetters

_kafka = click.option(
    "--kafka",
    is_flag=True,
    help="The dead-letter topics in Kafka (KAFKA_… variables) in place of a data folder.",
)


@contextmanager
def _letters(store: StoreName, kafka: bool) -> Iterator[Letters]:
    if not _in_kafka(store, kafka):
        with reading(store) as opened:
            yield opened
        return
    from matyan.broker.kafka.letters import open_letters
    from matyan.settings import load

    with open_letters(load()) as letters:
        yield letters


def _in_kafka(store: StoreName, kafka: bool) -> bool:
    """Kafka feeds every store of a cluster, and then has its dead letters too."""
    return kafka or isinstance(store, ClusterName)


def _ids(words: Iterable[str], store: StoreName, kafka: bool) -> list[Any]:
    """Numbers in the embedded store; TOPIC/PARTITION/OFFSET on Kafka."""
    if _in_kafka(store, kafka):
        return [*words]
    number = click.IntRange(0, (1 << 63) - 1)
    return [number(word) for word in words]


@click.group()
def dlq() -> None:
    """Look at records that could not be applied, and send them again.

    \b
    On the data folder of `matyan up`, or with --kafka on the dead-letter topics of a deployment, which are those of a
    FoundationDB store, too:
      matyan dlq list
      matyan dlq list --kafka
    """


@dlq.command("list")
@place_options
@_kafka
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N.")
@as_json_option
def dlq_list(store: StoreName, kafka: bool, limit: int | None, as_json: bool) -> None:
    """List the dead letters: where each came from and why it could not be applied.

    \b
      matyan dlq list --json | jq -r '.[] | [.time, .version, .error_text] | @tsv'
      matyan dlq list --kafka --limit 20
    """
    with _letters(store, kafka) as letters:
        rows = letters.dead_letters(limit)
        if as_json:
            views.as_json(list(rows))
        else:
            views.dead_letters(rows)


@dlq.command("show")
@click.argument("id_", metavar="ID")
@place_options
@_kafka
def dlq_show(id_: str, store: StoreName, kafka: bool) -> None:
    """Print the original bytes of one dead letter, as they came; in a terminal without control characters.

    \b
      matyan dlq show 12
      matyan dlq show --kafka data-ingestion-dlq/0/12 | jq
    """

    with _letters(store, kafka) as letters:
        value: bytes = letters.dead_letter(_ids([id_], store, kafka)[0])["value"]
    if sys.stdout.isatty():
        terminal.out(value.decode(errors="backslashreplace"))
    else:
        sys.stdout.buffer.write(value)


@dlq.command("replay")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@place_options
@_kafka
@click.option("--all", "everything", is_flag=True, help="Every dead letter there is.")
def dlq_replay(ids: tuple[str, ...], store: StoreName, kafka: bool, everything: bool) -> None:
    """Send dead letters through the ingestion again; those that are applied leave the list.

    \b
      matyan dlq replay 12 13
      matyan dlq replay --all
      matyan dlq replay --kafka data-ingestion-dlq/0/12
      matyan dlq replay --kafka --all

    On Kafka their bytes and keys are produced to the topic that they came from, and they leave the list when every
    in-sync replica has them there; a record that cannot be applied yet comes back as a new dead letter. What was sent
    is remembered as committed offsets of the consumer group matyan-dlq, and is not sent twice. A crash right after a
    delivery can send the last 100 again: harmless for all but objects and log records without a step. Kafka forgets
    the offsets of a group that was not used for offsets.retention.minutes (7 days), which is as long as it keeps a
    topic's records by default: keep the two alike. Run one replay at a time.
    """
    if bool(ids) == everything:
        raise click.UsageError("Name the dead letters by their ids, or all of them with --all.")
    again = 0
    with _letters(store, kafka) as letters:
        for outcome in letters.replay(None if everything else _ids(ids, store, kafka)):
            terminal.out(outcome["id"], outcome["outcome"])
            again += outcome["outcome"].startswith("dead again")
    if again:
        raise MatyanError(f"{again} of them could not be applied: `matyan dlq list` says why.")
