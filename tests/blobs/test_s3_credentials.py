"""S3 without a key in the settings: what boto3's own chain finds is signed with, renewed in time, and named when it is not there."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import trio

from matyan.blobs.base import Upload
from matyan.blobs.s3 import S3Blobs
from matyan.errors import ConfigurationError, Unavailable
from matyan.settings import load
from tests.blobs.aws import LINKS, Aws, aws, use, write_profile
from tests.blobs.bucket import Bucket, bucket
from tests.tracker import MATYAN, started

__all__ = ["aws", "bucket"]

NO_KEYS = {"S3_ACCESS_KEY": "", "S3_SECRET_KEY": ""}


def put(upload: Upload) -> int:
    headers = {"Content-Type": "text/plain", **(upload.headers or {})}
    return httpx.put(upload.upload_url, content=b"x", headers=headers).status_code


def signed(upload: Upload) -> dict[str, str]:
    """The signature's own parameters, by their names without X-Amz-."""
    query = parse_qs(urlsplit(upload.upload_url).query)
    return {name.removeprefix("X-Amz-"): values[0] for name, values in query.items()}


async def presign(blobs: S3Blobs, path: str = "a") -> Upload:
    return await blobs.presign_put("run", path, "text/plain", "")


@pytest.mark.parametrize("link", LINKS)
async def test_without_a_key_the_chain_is_used(
    link: str, bucket: Bucket, aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each link of it: URLs and requests carry its session token in their signatures, which a real server checks. (versitygw
    takes no session tokens at all.)"""
    use(link, aws, monkeypatch, tmp_path)
    blobs = S3Blobs(bucket.settings(**NO_KEYS))
    upload = await presign(blobs)
    assert signed(upload)["Security-Token"] == "token-1"
    assert put(upload) == 200
    assert put(Upload(upload.upload_url.replace("token-1", "token-2"), upload.s3_key, None)) == 403
    await blobs.check()
    assert await blobs.delete_run("run") == 1
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket.name)
    assert (
        f"signed with the credentials of {LINKS[link]} in AWS's own chain"
        in blobs.credentials.about()
    )
    assert aws.given <= 1
    if link == "web identity":
        assert aws.web_identities == ["signed-by-the-cluster"]


async def test_the_settings_key_wins_over_the_chain(
    bucket: Bucket, aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it did before: a profile on the machine of whoever starts a frontier by hand changes nothing."""
    write_profile(tmp_path, "another", "token-1")
    monkeypatch.setenv("AWS_PROFILE", "artifacts")
    use("instance", aws, monkeypatch, tmp_path)
    upload = await presign(S3Blobs(bucket.settings()))
    assert "Security-Token" not in signed(upload)
    assert put(upload) == 200
    assert aws.given == 0


@pytest.mark.parametrize("empty", ["S3_ACCESS_KEY", "S3_SECRET_KEY"])
def test_half_a_key_is_a_sentence(empty: str) -> None:
    """Whether the chain is meant is not guessed."""
    with pytest.raises(ConfigurationError, match=f"^{empty} is empty and .* is not: .*chain"):
        S3Blobs(load({empty: ""}))


# --- credentials that end ------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["web identity", "container", "instance", "process"])
@pytest.mark.parametrize(("life_s", "most_s"), [(86_400, 3_600), (600, 600), (90, 90)])
async def test_a_url_lives_no_longer_than_its_credentials(
    link: str, life_s: float, most_s: int, aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S3 refuses one that outlives them; so its own expiry says when. Of an instance's last minutes, too, which botocore stretches."""
    aws.life_s = life_s
    use(link, aws, monkeypatch, tmp_path)
    seconds = int(signed(await presign(S3Blobs(load(NO_KEYS))))["Expires"])
    assert most_s - 60 < seconds <= most_s


@pytest.mark.parametrize("link", ["web identity", "container", "instance"])
async def test_credentials_that_will_end_are_renewed(
    link: str, bucket: Bucket, aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Within their last quarter of an hour; each URL after it is signed with the new token, and so is each request."""
    monkeypatch.setattr("matyan.blobs.s3_credentials._LOOK_S", 0.0)
    use(link, aws, monkeypatch, tmp_path)
    blobs = S3Blobs(bucket.settings(**NO_KEYS))
    for _ in range(3):  # of an hour, none has to be asked for
        assert signed(await presign(blobs))["Security-Token"] == "token-1"
    aws.life_s = 800
    blobs = S3Blobs(bucket.settings(**NO_KEYS))
    for number in range(2, 5):
        upload = await presign(blobs)
        assert signed(upload)["Security-Token"] == f"token-{number}"
        assert put(upload) == 200
    await blobs.list_one()
    assert aws.given == 5


async def test_an_outage_of_the_chain_shows_when_the_credentials_end(
    bucket: Bucket,
    aws: Aws,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Until then what is held is signed with, and the log says that it was not renewed; afterwards the sentence says why, and
    as soon as the chain answers again all goes on."""
    monkeypatch.setattr("matyan.blobs.s3_credentials._LOOK_S", 0.0)
    monkeypatch.setattr("matyan.blobs.s3_credentials._AGAIN_S", 0.0)
    use("web identity", aws, monkeypatch, tmp_path)
    blobs = S3Blobs(bucket.settings(**NO_KEYS))
    aws.life_s = 800
    await presign(blobs)
    aws.refuses = True
    with caplog.at_level(logging.WARNING, "matyan"):
        for _ in range(3):
            assert put(await presign(blobs)) == 200
    told = [line for line in caplog.messages if "credentials for S3 were not renewed" in line]
    assert len(told) == 1
    monkeypatch.setattr(blobs.credentials, "_ends", time.time())
    for attempt in (presign(blobs), blobs.delete(["run/a"])):
        with pytest.raises(
            Unavailable, match=r"^There are no credentials for S3: .*Not authorized"
        ):
            await attempt
    aws.refuses = False
    assert put(await presign(blobs)) == 200


async def test_a_profile_that_is_written_anew_is_read_anew(
    bucket: Bucket, aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Programs that log in write tokens into AWS's files. When S3 has refused the old one at once, else within a minute."""
    write_profile(tmp_path, "ended", "token-1")
    monkeypatch.setenv("AWS_PROFILE", "artifacts")
    blobs = S3Blobs(bucket.settings(**NO_KEYS))
    assert put(await presign(blobs)) == 403
    write_profile(tmp_path, "rustfsadmin", "token-2")
    assert signed(await presign(blobs))["Security-Token"] == "token-1"
    with pytest.raises(Unavailable, match=r"InvalidAccessKeyId.*what AWS's chain gives"):
        await blobs.list_one()
    await blobs.list_one()
    assert signed(await presign(blobs))["Security-Token"] == "token-2"
    monkeypatch.setattr("matyan.blobs.s3_credentials._LOOK_S", 0.0)
    blobs = S3Blobs(bucket.settings(**NO_KEYS))
    await presign(blobs)
    write_profile(tmp_path, "rustfsadmin", "token-3")
    assert signed(await presign(blobs))["Security-Token"] == "token-3"


async def test_a_machine_that_slept_asks_at_once(
    bucket: Bucket, aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its credentials ended before they were due to be renewed: the clock of the waits stood still meanwhile."""
    use("container", aws, monkeypatch, tmp_path)
    blobs = S3Blobs(bucket.settings(**NO_KEYS))
    await presign(blobs)
    monkeypatch.setattr(blobs.credentials, "_ends", time.time() - 3_600)
    assert signed(await presign(blobs))["Security-Token"] == "token-2"


# --- the loop ------------------------------------------------------------------------------------


async def test_many_who_want_a_url_ask_the_chain_once(
    bucket: Bucket, aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the loop goes on while they wait."""
    use("container", aws, monkeypatch, tmp_path)
    aws.gate.clear()
    blobs = S3Blobs(bucket.settings(**NO_KEYS))
    uploads: list[Upload] = []

    async def ask(number: int) -> None:
        uploads.append(await presign(blobs, str(number)))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, number)
            for _ in range(20):
                await trio.sleep(0.01)
            assert uploads == []
            aws.gate.set()
    assert len(uploads) == 50
    assert aws.given == 1


async def test_a_chain_that_hangs_holds_nobody_up(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever has nothing to sign with hears it after a limit, which this test lowers; whoever has something signs with that,
    and one alone waits whether there is something newer."""
    monkeypatch.setattr("matyan.blobs.s3_credentials._ANSWER_S", 0.5)
    monkeypatch.setattr("matyan.blobs.s3_credentials._LOOK_S", 0.0)
    use("container", aws, monkeypatch, tmp_path)
    aws.gate.clear()
    blobs = S3Blobs(load(NO_KEYS))
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"no answer within 0\.5 s"):
            await presign(blobs)
    aws.gate.set()
    aws.life_s = 600
    blobs = S3Blobs(load(NO_KEYS))
    await presign(blobs)
    aws.gate.clear()
    monkeypatch.setattr("matyan.blobs.s3_credentials._ANSWER_S", 60.0)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(presign, blobs)
            await trio.testing.wait_all_tasks_blocked(0.05)
            for _ in range(5):
                assert signed(await presign(blobs))["Security-Token"] == "token-2"
            nursery.cancel_scope.cancel()


# --- sentences -----------------------------------------------------------------------------------


def nothing(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None: ...


def half_a_key(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hush")


def no_web_identity(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use("web identity", aws, monkeypatch, tmp_path)
    (tmp_path / "web-identity").unlink()


def a_role_that_may_not(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "web-identity").write_text("hush")
    use("web identity", aws, monkeypatch, tmp_path)
    aws.refuses = True


def no_sts(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use("web identity", aws, monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")


def a_container_that_refuses(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use("container", aws, monkeypatch, tmp_path)
    aws.refuses = True


def no_container_token(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use("container", aws, monkeypatch, tmp_path)
    (tmp_path / "container").write_text("hush\nhush")


def a_container_that_says(text: bytes):
    def set_up(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        use("container", aws, monkeypatch, tmp_path)
        aws.says = text

    return set_up


def an_instance_without_a_role(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use("instance", aws, monkeypatch, tmp_path)
    aws.says = b'{"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume the role"}'


def a_program_that_fails(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\ncredential_process = false\n")


def no_such_program(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\ncredential_process = /no/program\n")


ENDED = json.dumps(
    {
        "AccessKeyId": "x",
        "SecretAccessKey": "hush",
        "Token": "hush",
        "Expiration": "2020-01-01T00:00:00Z",
    }
).encode()


@pytest.mark.parametrize(
    ("set_up", "detail"),
    [
        (nothing, "none of its links has any"),
        (half_a_key, "AWS_SECRET_ACCESS_KEY"),
        (no_web_identity, "No such file or directory: '.*web-identity'"),
        (a_role_that_may_not, "Not authorized to perform sts:AssumeRoleWithWebIdentity"),
        (no_sts, "Could not connect to the endpoint URL"),
        (a_container_that_refuses, "container-role"),
        (no_container_token, "not a legal header value"),
        (a_container_that_says(b"hush<html>"), "container-role"),
        (a_container_that_says(b"{}"), "KeyError"),
        (a_container_that_says(b"null"), "TypeError"),
        (a_container_that_says(ENDED), "expired"),
        (an_instance_without_a_role, "none of its links has any"),
        (a_program_that_fails, "custom-process"),
        (no_such_program, "/no/program"),
    ],
)
async def test_a_chain_that_has_nothing_is_a_sentence(
    set_up, detail: str, aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unavailable, since a role can come and STS can be back; it names the settings and what the chain said, and no secret."""
    set_up(aws, monkeypatch, tmp_path)
    blobs = S3Blobs(load(NO_KEYS))
    for attempt in (presign(blobs), blobs.list_one(), blobs.check()):
        with pytest.raises(Unavailable, match=detail) as caught:
            await attempt
        said = str(caught.value)
        assert said.startswith(
            "There are no credentials for S3: S3_ACCESS_KEY and S3_SECRET_KEY are empty"
        )
        assert "hush" not in said
        assert said.endswith(".")
        assert ".." not in said.replace("...", "")
    with pytest.raises(Unavailable, match=detail):
        blobs.held("run")


def test_a_profile_that_is_none_is_a_sentence(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the start, since nothing mends it by itself."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match=r"^AWS_PROFILE: .*nobody"):
        S3Blobs(load(NO_KEYS))


def test_a_frontier_without_credentials_says_so_and_takes_metrics() -> None:
    """At its start in the log, and to whoever wants to upload; it does not end, since a role can come."""
    words = [*MATYAN, "frontier", "--host", "127.0.0.1", "--port", "0"]
    env = {"AWS_EC2_METADATA_DISABLED": "true", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", **NO_KEYS}
    with started(words, "artifacts cannot be uploaded yet", **env) as process:
        port = re.search(r"frontier on port (\d+)", "".join(process.output))
        assert port is not None
        asked = httpx.post(
            f"http://127.0.0.1:{port[1]}/api/v1/rest/artifacts/presign",
            json={"run_id": "run", "artifact_path": "a"},
        )
        assert asked.status_code == 503
        assert asked.json()["detail"].startswith("There are no credentials for S3")
        assert process.process.poll() is None
