"""What S3's errors mean for whoever has to mend them: the settings that decide, by the API's code."""

from __future__ import annotations

from typing import Any, Final

from botocore.exceptions import ClientError, SSLError

_MEND: Final = "Look at S3_ENDPOINT and S3_REGION, and whether the server runs."
_SSL: Final = (
    "The server's certificate must be for the host in S3_ENDPOINT; unless a public authority has signed it, S3_CA_FILE must "
    "name the certificates of the one that has."
)
_KMS: Final = (
    "MATYAN_S3_SSE_KMS_KEY_ID must be an enabled key in the bucket's region, with which S3's credentials may encrypt "
    "(kms:GenerateDataKey)."
)
_MENDS: Final = {
    "NoSuchBucket": "Make that bucket, or name another one with S3_BUCKET.",
    **dict.fromkeys(
        ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        "S3_ACCESS_KEY and S3_SECRET_KEY must be a key that may list, put and delete in S3_BUCKET; where both are empty, "
        "so must what AWS's chain gives.",
    ),
    **dict.fromkeys(
        ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
        "The session token has ended, or is another key's: give credentials that AWS's chain renews, such as a role.",
    ),
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"),
        "S3_REGION and S3_ENDPOINT must be the bucket's.",
    ),
    "InvalidEncryptionAlgorithmError": "MATYAN_S3_SSE must be what this server knows.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
}

STALE: Final = {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"}
"""Codes of credentials that have ended: others may be there by now."""


def code_of(error: Exception) -> str:
    """The S3 API's code; empty when the error is not the server's."""
    return _row(error).get("Code", "") if isinstance(error, ClientError) else ""


def _row(error: ClientError) -> dict[str, Any]:
    row: dict[str, Any] = error.response.get("Error", {})
    return row


def mend(error: Exception) -> str:
    """What to do about an error of a call."""
    if isinstance(error, ClientError):
        return mend_of(code_of(error), _row(error).get("Message", ""))
    return _SSL if isinstance(error, SSLError) else _MEND


def mend_of(code: str, message: str = "") -> str:
    """What to do about an error that the server answers with."""
    # A KMS key that may not be used is AccessDenied like all else: the message alone tells of it.
    if code.startswith("KMS.") or "kms:" in message:
        return _KMS
    return _MENDS.get(code, _MEND)


def stays(code: str) -> bool:
    """Whether the same question would have the same answer, until a person has mended something."""
    return code in _MENDS


def said(error: Exception) -> str:
    """botocore's sentence, without a full stop."""
    return str(error).removesuffix(".")
