"""The ingest plane of the Matyan experiment tracker."""

__version__ = "0.1.0"
