"""`matyan webhooks`: who is told of runs that end or go. Shows the file, tries a receiver, makes a secret.

What the file may hold and what a message is stands in `workers/webhooks.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
import trio

from matyan import settings as settings_
from matyan.cli import views
from matyan.cli.flags import as_json_option, setting_option
from matyan.errors import ConfigurationError, MatyanError, NotFound
from matyan.service import terminal
from matyan.workers import webhooks as webhooks_
from matyan.workers.webhooks import Webhook


@click.group()
def webhooks() -> None:
    """Tell other programs of runs that end, go stale, are archived or deleted.

    \b
    The file of MATYAN_WEBHOOKS_FILE, which is read at the start of a service, is TOML:
      [[webhook]]
      name = "chat"
      url = "https://hooks.example.org/matyan"
      secret_file = "chat.secret"          # beside this file; or: secret = "whsec_…"
      events = ["run_finished", "run_stale"]  # default: all
      timeout_s = 10                       # for an answer
      give_up_s = 86400                    # then what it did not take is a dead letter

    \b
    Events: run_finished (by a record of its training or of `matyan finish`), run_stale (`matyan finish-stale` ended it),
    run_deleted, run_archived, run_unarchived, experiment_deleted, tag_deleted.

    \b
    The tracker tells them, or over Kafka the control worker, which then wants --store; give the ingestion workers the same variable,
    or nobody hears of runs that finish:
      matyan up --webhooks-file webhooks.toml
      matyan control-worker --store fdb: --webhooks-file webhooks.toml

    A message is a POST of {"type", "timestamp", "data"}, signed as the Standard Webhooks specification says (HMAC-SHA256 in
    webhook-signature, with webhook-id and webhook-timestamp). Any status from 200 to 299 takes it; whatever else comes, a redirection
    too, is tried again: at least once, in order for each run, with waits up to ten minutes. The same id is the same event.
    `matyan dlq` shows what was given up, and sends it again, to all webhooks that want its event.
    """


def _file(command: Callable[..., Any]) -> Callable[..., Any]:
    """--webhooks-file; the command gets `found`, what the file holds."""

    @wraps(command)
    def call(*arguments: Any, webhooks_file: str | None, **given: Any) -> Any:
        named = settings_.load(
            ignore=settings_.EMBEDDED_IGNORES, webhooks_file=webhooks_file
        ).webhooks_file
        if not named:
            raise ConfigurationError(
                "There is no file of webhooks: name one with --webhooks-file or MATYAN_WEBHOOKS_FILE."
            )
        return command(*arguments, found=webhooks_.read_webhooks(named), **given)

    return setting_option("webhooks_file")(call)


@webhooks.command("list")
@as_json_option
@_file
def list_(found: tuple[Webhook, ...], as_json: bool) -> None:
    """Check the file, and list its webhooks.

    \b
    In a pipe: name, URL, events; with tabs.
      matyan webhooks list --webhooks-file webhooks.toml
    """
    rows = [
        {
            "name": one.name,
            "url": one.url,
            "events": sorted(one.events),
            "timeout_s": one.timeout_s,
            "give_up_s": one.give_up_s,
        }
        for one in found
    ]
    if as_json:
        views.as_json(rows)
    else:
        views.webhooks(rows)


@webhooks.command("test")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_file
def test(names: tuple[str, ...], found: tuple[Webhook, ...]) -> None:
    """Send each webhook, or those that are named, a message of the type "test", once, and say what it answers.

    \b
      matyan webhooks test chat --webhooks-file webhooks.toml
    """
    known = {one.name: one for one in found}
    for name in names:
        if name not in known:
            raise NotFound(
                f"There is no webhook {name}: `matyan webhooks list` shows what there is."
            )
    refused = 0
    for one in [known[name] for name in dict.fromkeys(names)] or found:
        failure = trio.run(_send, one)
        refused += failure is not None
        terminal.out(one.name, "taken" if failure is None else failure.reason)
    if refused:
        raise MatyanError(f"{refused} of them did not take it.")


async def _send(webhook: Webhook) -> webhooks_.Failure | None:
    now = time.time()
    async with webhooks_.open_client() as client:
        return await webhooks_.post(client, webhook, webhooks_.test_event(now), now)


@webhooks.command("secret")
def secret() -> None:
    """Make a secret and print it: for the file, and for the receiver.

    \b
      matyan webhooks secret > chat.secret
    """
    terminal.out(webhooks_.new_secret(os.urandom(webhooks_.SECRET_BYTES)))
