"""
A process of a site in which two clients listen: prints what they get, and how often the group
chain has run. Its arguments are ``CHANNEL_LAYERS`` and ``FILTERED_WEBSOCKET`` as JSON.
"""

import asyncio
import json
import sys

import django
from django.test import override_settings

django.setup()

from filtered_websocket import WebSocketGroupFilter, testing  # noqa: E402
from filtered_websocket.consumers import FilteredWebSocketConsumer  # noqa: E402
from filtered_websocket.testing import connect  # noqa: E402

from ..waiting import LIMIT  # noqa: E402


class Count(WebSocketGroupFilter):
    runs = 0

    @classmethod
    def filter(cls, hub, message):
        cls.runs += 1
        return f"an event of type {message['type']}" if isinstance(message, dict) else message


async def main():
    app = FilteredWebSocketConsumer.as_asgi(filters=[Count], groups=["chat"])
    async with connect(app) as ann, connect(app) as bob:
        print("joined", flush=True)
        heard = []
        while not heard or heard[-1] != "end":
            heard.append(await ann.receive())
            assert await bob.receive() == heard[-1]
        assert Count.runs == len(heard)
        print(json.dumps(heard), flush=True)


if __name__ == "__main__":
    testing.TIMEOUT = LIMIT
    layers, ours = map(json.loads, sys.argv[1:])
    with override_settings(CHANNEL_LAYERS=layers, FILTERED_WEBSOCKET=ours):
        asyncio.run(main())
