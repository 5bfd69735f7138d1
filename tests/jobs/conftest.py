"""The stores that these tests run on."""

from tests.bodies import bodies

__all__ = ["bodies"]
