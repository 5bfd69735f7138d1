"""One training with one of the SDK's callbacks.

    python -m tests.adapters.train stubs|libraries hugging_face|lightning|keras URL

Prints, last, one JSON object: the run, and each metric that the callback handed to the SDK's sender, in order. It runs in the
libraries' own environments, so it needs the SDK and nothing of ours.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from matyan_client.transport.ws import WsTransport


def note(sent: list[dict[str, Any]]) -> None:
    """From now on what is sent is noted too."""
    send: Callable[..., None] = WsTransport.send_log_metric

    def noted(transport: WsTransport, **members: Any) -> None:
        sent.append(dict(members))
        send(transport, **members)

    WsTransport.send_log_metric = noted


def main() -> None:
    where, library, url = sys.argv[1:]
    sent: list[dict[str, Any]] = []
    note(sent)
    run = getattr(importlib.import_module(f"tests.adapters.{where}"), library)(url)
    print(json.dumps({"run": run, "sent": sent}))


if __name__ == "__main__":
    main()
