"""
Asks group rules about live subscriptions, many in one thread: one query for the users whose
permissions are asked, one database connection for functions that block.
"""

import asyncio
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..threads.blocking import run_blocking
from ..threads.tasks import end_tasks
from .permissions import ask_blocking, describe_allowed, fresh_users, has_permission, is_blocking

#: How long one rule may take, seconds: those that are asked after it in its thread wait for it.
RULE_TIMEOUT = 10.0


class Held(NamedTuple):
    """A live subscription."""

    connection: Any
    subscription: Any

    @property
    def key(self) -> tuple[str, str]:
        """Connection id and group."""
        return self.connection.id, self.subscription.group

    @property
    def is_live(self) -> bool:
        """Whether it has not ended meanwhile, and the site has not taken it over."""
        one = self.connection.subscriptions.get(self.subscription.group)
        return one is self.subscription and not one.trusted

    @property
    def kind(self) -> str:
        """How its rule is asked: in a thread, if not empty."""
        who = self.subscription.rule.join
        if isinstance(who, str):
            return "permission"
        return "blocking" if is_blocking(who) else ""

    @property
    def question(self) -> tuple[Any, Any, Any]:
        return self.subscription.rule.join, self.connection, self.subscription.captured

    def too_late(self) -> TimeoutError:
        """Its rule has taken longer than ``RULE_TIMEOUT``."""
        who = describe_allowed(self.subscription.rule.join)
        return TimeoutError(f"{who} has not answered within {RULE_TIMEOUT:g} s")


class Asking:
    """Asks the rules of a batch of one kind in a thread, one after the other."""

    def __init__(self, batch: list[Held]) -> None:
        self._batch = batch
        #: Whether its thread has begun, and has not returned.
        self.is_running = False
        self._is_given_up = False
        self._answers: list[Any] = []
        self._error: BaseException | None = None
        #: The place of the one that takes too long.
        self._hangs_at: int | None = None
        #: Those that have no answer, as it takes too long.
        self.hanging: list[Held] = []

    async def wait(self) -> None:
        """Return when all have answered, or one of them has taken longer than RULE_TIMEOUT."""
        # The name is logged where the thread does not return.
        task = asyncio.create_task(run_blocking(functools.wraps(answers)(lambda: self._ask())))
        before = None
        try:
            while not task.done():
                now = len(self._answers) if self.is_running else None
                if now is not None and now == before:
                    self._hangs_at = now
                    return
                before = now
                await asyncio.wait({task}, timeout=RULE_TIMEOUT)
            self._error = task.exception()
        finally:
            self._is_given_up = True
            await end_tasks([task])

    def _ask(self) -> None:
        self.is_running = True
        try:
            for answer in answers(self._batch):
                if self._is_given_up:
                    return  # another thread asks the others
                self._answers.append(answer)
        finally:
            self.is_running = False

    def results(self) -> list[Any]:
        """
        The answers of the first ones, and an exception for each that has failed. Those of the
        batch that are left have not been asked.
        """
        found = self._answers.copy()
        late = self._batch[len(found) :]
        if self._error is not None:
            return [*found, *[self._error] * len(late)]
        if self._hangs_at == len(found):
            # A database that does not answer answers none of them.
            self.hanging = late[:1] if self._batch[0].kind == "blocking" else late
        return [*found, *[one.too_late() for one in self.hanging]]


def answers(batch: list[Held]) -> Iterator[Any]:
    """One of each: whether it may stay, or why that cannot be found out. In a thread."""
    if batch[0].kind == "blocking":
        for one in batch:
            yield try_to(ask_blocking, *one.question)
        return
    run = batch[0].connection.context.copy().run
    users = run(fresh_users, [one.connection.user for one in batch])
    for one, user in zip(batch, users, strict=True):
        yield try_to(run, has_permission, user, one.subscription.rule.join)


def try_to(call: Callable[..., Any], *args: Any) -> Any:
    """What ``call`` returns, or the exception that it raises."""
    try:
        return call(*args)
    except Exception as error:
        return error
