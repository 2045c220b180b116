"""``connect`` of websockets, for a busy machine: it waits longer, and asks for no sign of life."""

from functools import partial

from websockets.asyncio import client

from ..waiting import LIMIT

connect = partial(client.connect, open_timeout=LIMIT, ping_interval=None)
