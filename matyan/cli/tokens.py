"""`matyan tokens`: who may come in. Makes, lists and revokes what the services ask for.

The file and what it means are `service/tokens.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from matyan import settings as settings_
from matyan.cli import views
from matyan.cli.flags import age, as_json_option, data_option, setting_option
from matyan.errors import MatyanError, NotFound
from matyan.service import terminal
from matyan.service import tokens as tokens_
from matyan.service.quotas import EXAMPLE, Quota, read_quota
from matyan.service.tokens import Scope, Token

_LONGEST_S = 100 * 365 * 86_400
"""Whoever wants more leaves --expires out."""


@click.group()
def tokens() -> None:
    """Make, list and revoke the tokens that clients show.

    Without a token in its file a service asks for none: whoever reaches its port may do all. From the first one on, every request
    and every WebSocket wants one, but for /health/, for signed URLs of artifacts, and for what browsers ask before a request of
    another origin. Services read the file again when it changes; they need no restart.

    \b
      matyan tokens add training --scope write
      matyan tokens add laptop --scope read --expires 90d
      matyan tokens list
      matyan tokens revoke laptop

    \b
    The SDK takes a token in its URL, in place of http://tracker:53801:
      Run(repo="http://training:TOKEN@tracker:53801")
      MATYAN_FRONTIER_URL=http://training:TOKEN@tracker:53801
    Other programs send HTTP Basic (NAME:TOKEN), or Bearer:
      curl -u laptop:TOKEN http://tracker:53801/metrics/
      curl -H "Authorization: Bearer TOKEN" http://tracker:53801/metrics/

    The file is MATYAN_TOKENS_FILE, or else `tokens` in the data folder of `matyan up`. It holds digests, from which nobody gets a
    token back. Where MATYAN_TOKENS_FILE is set, a service does not start without the file; while the file is missing or broken
    later, its last good state counts.
    """


def _file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--tokens-file and --data; the command gets `file`."""

    @wraps(command)
    def call(*arguments: Any, tokens_file: str | None, data: Path, **given: Any) -> Any:
        settings = settings_.load(ignore=settings_.EMBEDDED_IGNORES, tokens_file=tokens_file)
        named = settings.tokens_file
        file = Path(named).absolute() if named else tokens_.default_file(data)
        return command(*arguments, file=file, **given)

    return setting_option("tokens_file")(data_option(call))


def _expiry(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    seconds = age(value)
    if not 0 < seconds <= _LONGEST_S:
        raise click.BadParameter(f"{value!r}: expected an age up to 100 years, such as 12h or 90d.")
    return float(int(time.time() + seconds))


def _quota(ctx: click.Context, param: click.Parameter, value: str | None) -> Quota | None:
    if value is None:
        return None
    try:
        return read_quota(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


def _name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not tokens_.is_name(value):
        raise click.BadParameter(
            f"{value!r}: expected a name of at most 64 of A-Z, a-z, 0-9, dot, _ and -, which begins with a letter or a digit."
        )
    return value


@tokens.command("add")
@click.argument("name", callback=_name)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    required=True,
    help="write: send runs and artifacts, as training does. read: everything that changes nothing. admin: both, and whatever else "
    "there is. May be given twice.",
)
@click.option(
    "--expires",
    callback=_expiry,
    metavar="AGE",
    help="It is good for so long: 12h, 90d, 52w. Default: until it is revoked.",
)
@click.option(
    "--quota",
    callback=_quota,
    metavar="LIMITS",
    help=f"What it may use in each process, some of {EXAMPLE}. Default: as much as there is.",
)
@as_json_option
@_file_options
def add(
    name: str,
    scopes: tuple[str, ...],
    expires: float | None,
    quota: Quota | None,
    as_json: bool,
    file: Path,
) -> None:
    """Make a token and print it, this once: only its digest is kept.

    \b
      matyan tokens add training --scope write
      matyan tokens add laptop --scope read --expires 90d
      matyan tokens add team-b --scope write --quota connections=50,bytes=10MB/s
      TOKEN=$(matyan tokens add ci --scope write --expires 12h)

    The token goes to standard output, what to do with it to standard error. The first one shuts the door: clients that send none
    are refused from then on, and their sockets are closed after their last reply.
    """
    secret = tokens_.new_secret()
    token = Token(
        name,
        tokens_.digest(secret.reveal()),
        frozenset(map(Scope, scopes)),
        float(int(time.time())),
        expires,
        quota,
    )
    with tokens_.changing(file) as known:
        if name in known:
            raise MatyanError(
                f"There is a token {name} already: take another name, or revoke it first with `matyan tokens revoke {name}`."
            )
        is_first = not known
        known[name] = token
    if as_json:
        views.as_json({**_row(token), "token": secret.reveal()})
    else:
        terminal.out(secret.reveal())
    terminal.note(
        f"This is the only time that it is shown. The SDK takes it in its URL: http://{name}:TOKEN@HOST:{settings_.DEFAULT_PORT}"
    )
    if is_first:
        terminal.note(f"It is the first one in {file}: whoever comes without a token is refused.")


@tokens.command("list")
@as_json_option
@_file_options
def list_(as_json: bool, file: Path) -> None:
    """List the tokens: what each allows, and until when. The tokens themselves are not kept.

    \b
    In a pipe: name, scopes, state, created, expires, quota; with tabs.
      matyan tokens list
      matyan tokens list --json | jq -r '.[] | select(.state == "expired") | .name'
    """
    known = tokens_.read_or_none(file)
    rows = [_row(token) for token in (known or {}).values()]
    if as_json:
        views.as_json(rows)
    else:
        views.tokens(rows)
    if known is None:
        terminal.note(f"There is no file {file}: a service that would use it asks for no token.")


@tokens.command("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_file_options
def revoke(names: tuple[str, ...], file: Path) -> None:
    """Take tokens back, for good: requests with them are refused, and open sockets are closed within 5 s, after their last reply.

    Where the last one is revoked, nobody may come in: to ask for no tokens at all, stop the service and remove the file.

    \b
      matyan tokens revoke laptop
      matyan tokens revoke team-a team-b
    """
    missing = [name for name in names if name not in (tokens_.read_or_none(file) or {})]
    if missing:
        raise NotFound(
            f"There is no token {missing[0]} in {file}: `matyan tokens list` shows what there is; nothing was revoked."
        )
    with tokens_.changing(file) as known:
        for name in names:
            known.pop(name, None)
    for name in dict.fromkeys(names):
        terminal.out(name, "revoked")


def _row(token: Token) -> views.Row:
    return {
        "name": token.name,
        "scopes": sorted(token.scopes),
        "state": "expired" if token.is_expired(time.time()) else "good",
        "created": token.created,
        "expires": token.expires,
        "quota": None if token.quota is None else str(token.quota),
    }
