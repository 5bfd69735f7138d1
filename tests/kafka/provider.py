"""An identity provider on loopback: gives signed tokens to who knows its secret (OAuth 2.0, RFC 6749, section 4.4)."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dev.broker import USER
from dev.certificates import TOKEN_KEY_ID, Certificates

CLIENT, SECRET = "client-1", "token-secret-789"


def _part(content: object) -> bytes:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def token(certificates: Certificates) -> str:
    """A JSON Web Token of USER (RFC 7519), signed with RS256."""
    key = load_pem_private_key(certificates.token_key.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    now = int(time.time())
    claims = {"sub": USER, "aud": "kafka", "iss": "tests", "iat": now, "exp": now + 300}
    signed = b".".join([_part({"alg": "RS256", "kid": TOKEN_KEY_ID, "typ": "JWT"}), _part(claims)])
    return (signed + b"." + _part(key.sign(signed, padding.PKCS1v15(), SHA256()))).decode()


@contextmanager
def provider(certificates: Certificates) -> Iterator[str]:
    """The URL of its token endpoint."""
    basic = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_known = self.headers.get("Authorization") == basic
            answer: dict[str, object] = {"error": "invalid_client"}
            if is_known:
                answer = {"access_token": token(certificates), "expires_in": 300}
            body = json.dumps(answer).encode()
            self.send_response(200 if is_known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def properties(path: Path, url: str, secret: str = SECRET) -> str:
    """Writes the file that MATYAN_KAFKA_CONFIG names; returns its path."""
    path.write_text(
        "sasl.oauthbearer.method=oidc\n"
        f"sasl.oauthbearer.client.id={CLIENT}\n"
        f"sasl.oauthbearer.client.secret={secret}\n"
        f"sasl.oauthbearer.token.endpoint.url={url}\n"
    )
    return str(path)
