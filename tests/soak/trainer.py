"""One training program of the soak, on the unmodified SDK: logs at a rate until its time is over or it is killed.

    python -m tests.soak.trainer --help

What it logs it writes down first; a watcher around the SDK's socket writes down frames and replies (`diary`).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from matyan_client import Run
from matyan_client.objects import Text
from matyan_client.transport.ws import WsTransport

from tests.soak.diary import Diary, content_of, metric_mark, name_of, value_of

MESSAGES_A_STEP = 3.6
"""About: three points, and now and then something else."""
STEPS_A_SESSION = 1_000_000
FORKED = 500
"""The number of a forked child's session is so much higher."""
FLUSH_S = 60.0
_ATTEMPT = WsTransport._attempt_send


class _Watched:
    """The SDK's socket, for one frame."""

    def __init__(self, socket: Any, diary: Diary, number: int) -> None:
        self._socket = socket
        self._diary = diary
        self._number = number

    async def send(self, payload: str) -> None:
        await self._socket.send(payload)

    async def recv(self) -> str | bytes:
        text: str | bytes = await self._socket.recv()
        self._diary.reply(self._number, text)
        return text


def watch(diary: Diary) -> None:
    """From now on frames and replies of this process's runs stand in `diary`."""

    async def watched(
        self: WsTransport, socket: Any, payload: str, messages: list[Any], attempts: int
    ) -> Exception | None:
        number = diary.frame(messages)
        failed: Exception | None = await _ATTEMPT(
            self, _Watched(socket, diary, number), payload, messages, attempts
        )
        return failed

    WsTransport._attempt_send = watched


class Trainer:
    def __init__(self, given: argparse.Namespace, session: int) -> None:
        self.given = given
        self.session = session
        self.diary = Diary(given.diaries / name_of(given.run, session, given.frontier))
        self.told = threading.Event()
        """To come to its end."""

    def train(self, seconds: float, fork_after: float | None) -> None:
        """Logs for so long; forks in between where `fork_after` says when."""
        watch(self.diary)
        given = self.given
        # Its terminal lines are sent by the call that the SDK's own capturing of a terminal makes.
        run = Run(
            given.run,
            repo=given.api,
            frontier_url=given.url,
            capture_terminal_logs=False,
            force_resume=self.session > 0,
        )
        sender = run._ws
        run.experiment = f"experiment {given.run[-1]}"
        began, step, child = time.monotonic(), self.session * STEPS_A_SESSION, 0
        while time.monotonic() - began < seconds and not self.told.is_set():
            if not sender._thread.is_alive():
                # As it does after 46 s without a reply; the user of such a program starts it again.
                self.diary.end("the SDK's sender has ended")
                os._exit(3)
            self.step(run, step)
            step += 1
            if fork_after is not None and time.monotonic() - began > fork_after:
                fork_after = None
                child = os.fork()
                if child == 0:
                    self._as_child(seconds / 3)
            self.told.wait(MESSAGES_A_STEP / given.rate)
        # Run.close() waits 8 s for its queue; on a busy machine that is little.
        deadline = time.monotonic() + FLUSH_S
        while sender.pending and sender._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.diary.log("finish")
        run.close()
        sender._thread.join(FLUSH_S)
        if child:
            os.waitpid(child, 0)
        self.diary.end("finished")

    def _as_child(self, seconds: float) -> None:
        """What a forked process does: it joins the run by a connection of its own. The parent's run is left alone."""
        code = 3
        try:
            trainer = Trainer(self.given, self.session + FORKED)
            signal.signal(signal.SIGTERM, lambda *_: trainer.told.set())
            trainer.train(seconds, None)
            code = 0
        finally:
            os._exit(code)

    def step(self, run: Run, step: int) -> None:
        log, name = self.diary.log, self.given.run
        for metric, subset in (("loss", "train"), ("loss", "val"), ("précision", "")):
            context = {"subset": subset} if subset else None
            mark = metric_mark(metric, context, step)
            log(mark)
            run.track(value_of(name, mark), name=metric, step=step, context=context)
        own = f"{self.session}-{step % STEPS_A_SESSION}"
        if step % 5 == 0:
            log(f"record {own}")
            run.log_info(own, at=step)
        if step % 5 == 2:
            log(f"line {own}")
            run._send_terminal_line(own, step)
        if step % 50 == 7:
            log(f"object sample {step}")
            run.track(Text(own), name="sample", step=step)
        if step % 60 == 11:
            log(f"attribute n{own}")
            run[f"soak.n{own}"] = step
        if step % 60 == 31:
            log(f"tag t{step % 7}")
            run.add_tag(f"t{step % 7}")
        if step % 100 == 40:
            path = f"weights/{own}.bin"
            log(f"artifact {path}")
            with tempfile.NamedTemporaryFile(dir=self.given.diaries) as file:
                file.write(content_of(name, path))
                file.flush()
                run.log_artifact(file.name, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="of a frontier")
    parser.add_argument("--frontier", type=int, required=True, help="its number, for the diary")
    parser.add_argument("--api", required=True, help="URL of the read API")
    parser.add_argument("--run", required=True)
    parser.add_argument("--session", type=int, default=0, help="which one of its run this is")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=15.0, help="messages a second")
    parser.add_argument("--fork-after", type=float, help="seconds; default: it does not fork")
    parser.add_argument("--diaries", type=Path, required=True, help="the folder of the diary")
    given = parser.parse_args()
    trainer = Trainer(given, given.session)
    signal.signal(signal.SIGTERM, lambda *_: trainer.told.set())
    try:
        trainer.train(given.seconds, given.fork_after)
    except ConnectionError as error:
        trainer.diary.end(f"no connection: {error}")
        sys.exit(3)


if __name__ == "__main__":
    main()
