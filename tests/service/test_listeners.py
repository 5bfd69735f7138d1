"""A port that is not to be had ends a service with a sentence that says how to name another."""

from __future__ import annotations

import socket

import pytest

from tests.tracker import environment, matyan


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (("frontier", "--host", "127.0.0.1", "--port"), "--port (0: any free one)"),
        (("control-worker", "--metrics-port"), "--metrics-port or METRICS_PORT"),
    ],
)
def test_a_taken_port_is_named_with_its_flag(words: tuple[str, ...], mend: str) -> None:
    """At once, whether the broker is there or not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = environment(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", HOST="127.0.0.1")
        done = matyan(*words, port, check=2, env=env)
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert done.stderr.rstrip().endswith(f"{mend}.")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "x" * 64])
def test_an_address_of_another_machine_is_named_with_its_flag(host: str) -> None:
    """What cannot be a name at all, too."""
    done = matyan("frontier", "--host", host, check=2, env=environment())
    assert f"{host!r} is no address of this machine" in done.stderr
    assert "--host" in done.stderr
