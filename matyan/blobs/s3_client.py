"""A client of S3 as the settings want it: addressing, certificates, encryption. What it is asked is `s3.py`'s affair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound

from matyan.blobs.s3_sentences import said
from matyan.errors import ConfigurationError
from matyan.settings import Settings


@dataclass(frozen=True, slots=True)
class Encryption:
    """How the server is asked to encrypt what is put: as the signature's parameters, and as the headers that it covers."""

    params: Mapping[str, str]
    headers: dict[str, str]
    mend: str


def encryption(settings: Settings) -> Encryption:
    """
    Raises:
        ConfigurationError: two settings do not go together.
    """
    sse, key = settings.s3_sse, settings.s3_sse_kms_key_id
    if key and not sse.startswith("aws:kms"):
        raise ConfigurationError(
            "MATYAN_S3_SSE_KMS_KEY_ID is set, and MATYAN_S3_SSE is not aws:kms: set that, too, or none of them."
        )
    rows = (
        ("ServerSideEncryption", "x-amz-server-side-encryption", sse),
        ("SSEKMSKeyId", "x-amz-server-side-encryption-aws-kms-key-id", key),
    )
    return Encryption(
        {param: value for param, _, value in rows if value},
        {header: value for _, header, value in rows if value},
        f"Look at MATYAN_S3_SSE={sse}: this server may know no such encryption." if sse else "",
    )


def open_client(
    settings: Settings, endpoint: str, name: str, session: botocore.session.Session, limits: Config
) -> Any:
    """A client of boto3 for `endpoint`, which is the setting `name`; `limits`: its timeouts.

    Raises:
        ConfigurationError: the settings or AWS's own files cannot be used.
    """
    style = settings.s3_addressing
    if style == "auto":
        # Amazon's own wish; others' servers know it when a wildcard in DNS was set up for them.
        host = urlsplit(endpoint).hostname or ""
        style = "virtual" if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else "path"
    try:
        return boto3.Session(botocore_session=session).client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.s3_region,
            # None: as AWS_CA_BUNDLE says, else the authorities that botocore brings.
            verify=settings.s3_ca_file or None,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": style},
                retries={"total_max_attempts": 1},
                # The default adds checksums that not every server that speaks S3 knows.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ).merge(limits),
        )
    except ProfileNotFound as error:
        raise ConfigurationError(
            f"AWS_PROFILE: {said(error)}. Name one that AWS's files have, or unset it."
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f"{name}={endpoint}: {said(error)}; expected http://host:port or https://host."
        ) from None
