"""The Dockerfile as a text: what its reader and its linter see without building it."""

from pathlib import Path

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"


def test_no_service_runs_as_root() -> None:
    """The last USER of the image is not root."""
    users = [
        line.split()[1] for line in DOCKERFILE.read_text().splitlines() if line.startswith("USER ")
    ]
    assert users
    assert users[-1] not in ("root", "0")
