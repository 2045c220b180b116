"""The stand-alone server: a program around the rest, for daphne or uvicorn."""

from .cli import build_reactor, build_server, main
from .options import parse

__all__ = ["build_reactor", "build_server", "main", "parse"]
