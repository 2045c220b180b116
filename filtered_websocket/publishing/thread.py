"""The thread that publishes for a process that serves no WebSockets, where it needs a loop."""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..conf import conf
from ..exceptions import PublishError
from ..history.base import Position
from ..layer.envelope import Batch, Item, Stamper, group_key
from ..layer.health import LOST
from ..logs import get_logger
from ..threads.tasks import pause
from .batches import Keep, append_once

logger = get_logger(__name__)

#: ``filtered_websocket.hub.hub.Hub``, which stands above this.
Hub = Any


class _Loop(asyncio.SelectorEventLoop):
    """Resolves names in its own thread: at exit, Python has closed the executor."""

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return socket.getaddrinfo(*args, **kwargs)


class PublisherThread:
    """A daemon thread with an event loop, and the hub that ``make_hub`` makes there."""

    def __init__(self, make_hub: Callable[[], Hub]) -> None:
        self._loop = _Loop()
        self._make_hub = make_hub
        self._ready: Future[Hub] = Future()
        self._thread = threading.Thread(target=self._run, name="fws-publish", daemon=True)
        self._thread.start()
        self.hub = self._ready.result()
        # Numbers messages that are sent at once, without the queue.
        self._stamper = Stamper()
        self._turn = asyncio.Lock()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(lambda: self._ready.set_result(self._make_hub()))
        self._loop.run_forever()

    def send(self, group: str, item: Item, keep: Keep | None = None) -> Position | None:
        """As :meth:`DirectSender.send <filtered_websocket.publishing.direct.DirectSender.send>`."""
        sending = asyncio.run_coroutine_threadsafe(self._send(group, item, keep), self._loop)
        try:
            position = sending.result()
        except (*LOST, TypeError, ValueError) as error:
            raise PublishError(
                f"the channel layer did not confirm the message: {type(error).__name__}: {error}"
            ) from error
        except BaseException:
            sending.cancel()
            raise
        if conf.CHANNELS_GROUPS and not (position and position.repeated):
            self.hub.call(self.hub.publish_queue.forwarder.put, group, [item])
        return position

    async def _send(self, group: str, item: Item, keep: Keep | None) -> Position | None:
        failures = 0
        async with asyncio.timeout(conf.LAYER_TIMEOUT), self._turn:
            batch = self._stamper.stamp(group_key(group), [item])
            while True:
                try:
                    return await self._send_once(batch, keep)
                except LOST:
                    failures += 1
                    await asyncio.sleep(pause(failures))

    async def _send_once(self, batch: Batch, keep: Keep | None) -> Position | None:
        store = None if keep is None else self.hub.feeds.store
        if keep is None or store is None:
            await self.hub.link.send(batch)
            return None
        position = await append_once(store, batch, keep)
        if not (store.publishes or position.repeated):
            await self.hub.link.send(batch._replace(first=position.offset, epoch=position.epoch))
        return position

    def close(self) -> None:
        """Send what is queued, ``LAYER_TIMEOUT`` at most, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        # channels_redis closes its connections when the loop is closed.
        self._loop.close()

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(conf.LAYER_TIMEOUT):
                await self.hub.publish_queue.sent()
        except TimeoutError:
            logger.error("%d published messages were not sent at exit", self.hub.publish_queue.size)
            await self.hub.publish_queue.give_up()
        # Its time is limited by ``LAYER_TIMEOUT``, too.
        await self.hub.release()
