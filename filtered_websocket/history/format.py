"""
How publications are written in the Redis of a layer, and what its errors mean; for every
client that runs the scripts.
"""

from typing import Any

from channels_redis.serializers import MsgPackSerializer
from redis.exceptions import NoPermissionError, ResponseError

from ..conf import conf
from ..layer.envelope import Item, open_item
from ..layer.health import LOST
from ..layer.names import needed_rights

#: What the scripts do, and the question for the ``run_id``, in the words of Redis' ACL.
RIGHTS = "+info +eval +evalsha +get +set +del +llen +lrange +rpush +ltrim +pexpire +publish"


class ItemFormat:
    """Raises AttributeError for a layer of another shape than those of channels_redis 4."""

    def __init__(self, layer: Any) -> None:
        serializer = layer._serializer
        self._crypter = serializer.crypter
        #: Whether what is written is also what subscribers read.
        self.is_plain = (
            type(serializer) is MsgPackSerializer
            and self._crypter is None
            and not serializer.random_prefix_length
        )

    def seal(self, item: Item) -> bytes:
        data: bytes = MsgPackSerializer.as_bytes(item)
        return data if self._crypter is None else self._crypter.encrypt(data)

    def open(self, data: bytes) -> Item:
        if self._crypter is not None:
            data = self._crypter.decrypt(data)
        return open_item(MsgPackSerializer.from_bytes(data))


def find_run_id(info: bytes) -> str:
    """Which server it is that has answered ``INFO server``."""
    for line in info.decode().splitlines():
        name, _, value = line.partition(":")
        if name == "run_id" and value:
            return value
    raise RuntimeError(
        "INFO of this Redis has no run_id: after a failover nobody could tell whether"
        " publications were lost, so nothing is kept here"
    )


def explain(error: Exception, layer: Any) -> Exception:
    """
    ``error`` of a script; for a missing right, a PermissionError that names what is needed. A
    ConnectionError from a server that is no longer the master: only a new connection finds
    that.
    """
    if isinstance(error, NoPermissionError):
        rights = f"{needed_rights(layer)} ~{conf.NAMESPACE}:* {RIGHTS}"
        return PermissionError(f"Redis refuses it ({error}): its user needs {rights}")
    # Redis 6 has the word in the text only, where it comes from a script.
    if isinstance(error, ResponseError) and "read only replica" in str(error):
        return ConnectionError(f"this Redis is no longer the master: {error}")
    return error


def is_outage(error: Exception) -> bool:
    """Whether Redis cannot be reached; not where it refuses something."""
    return isinstance(error, LOST) and not isinstance(error, PermissionError | ResponseError)
