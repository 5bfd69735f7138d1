"""Files with the certificates of authorities, as clients of a broker or of S3 are given them: are they what they should be?

The clients' libraries say what is wrong with one in OpenSSL's words, or when they connect. The listener's own certificates are
not looked at here.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from matyan.errors import ConfigurationError


def require_authorities(variable: str, path: str) -> None:
    """`path`: as `variable` has it; empty: the machine's own authorities.

    Raises:
        ConfigurationError: it cannot be read, or holds no certificate.
    """
    if not path or Path(path).is_dir():  # of files with hashes for names: OpenSSL takes one, too
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        why = "holds no certificate"
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    else:
        return
    raise ConfigurationError(
        f"{variable}={path!r} {why}: expected a file with certificates in PEM."
    )
