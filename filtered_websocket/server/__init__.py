"""The stand-alone server: a command-line program that runs daphne or uvicorn."""

from .cli import build_reactor, build_server, main
from .options import parse

__all__ = ["build_reactor", "build_server", "main", "parse"]
