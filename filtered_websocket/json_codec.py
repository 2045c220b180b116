"""The codec for JSON, at the path that sites write in their settings."""

from .codecs.json import JSONCodec

__all__ = ["JSONCodec"]
