"""Who may: everybody, nobody, who has a permission, or whom a function allows."""

import asyncio
import contextvars
import inspect
import threading

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, Permission
from django.contrib.auth.models import User as DjangoUser

from filtered_websocket.pipelines.permissions import ask
from filtered_websocket.threads.blocking import in_the_thread_sensitive_thread


async def is_allowed(who, connection, captured):
    answer = ask(who, connection, captured)
    return await answer if inspect.isawaitable(answer) else answer


class Someone:
    def __init__(self, user=None):
        self.user = user
        self.context = contextvars.copy_context()


class User:
    def __init__(self, *permissions):
        self.permissions = permissions

    def has_perm(self, name):
        asked.append((name, threading.current_thread() is threading.main_thread()))
        return name in self.permissions


asked = []


async def test_true_and_false_are_answers():
    assert await is_allowed(True, None, {}) is True
    assert await is_allowed(False, None, {}) is False


async def test_a_permission_is_asked_of_the_user_in_a_thread():
    asked.clear()
    assert await is_allowed("board.view", Someone(User("board.view")), {})
    assert not await is_allowed("board.view", Someone(User()), {})
    assert asked == [("board.view", False)] * 2
    assert not await is_allowed("board.view", Someone(AnonymousUser()), {})
    assert not await is_allowed("board.view", Someone(), {})


async def test_a_function_gets_the_connection_and_what_the_pattern_captured():
    def plain(connection, room):
        calls.append((connection, room, threading.current_thread()))
        return room == 7

    def blocking(connection, room):
        return plain(connection, room)

    async def awaited(connection, room):
        await asyncio.sleep(0)
        return plain(connection, room)

    blocking.blocking = True
    calls, someone, main = [], Someone(), threading.main_thread()
    for function, is_main in ((plain, True), (blocking, False), (awaited, True)):
        assert await is_allowed(function, someone, {"room": 7}) is True
        assert await is_allowed(function, someone, {"room": 8}) is False
        assert [(who, thread is main) for who, _, thread in calls] == [(someone, is_main)] * 2
        calls.clear()


async def test_an_answer_that_is_neither_yes_nor_no_is_an_error():
    """A forgotten return, or a lookup in the place of an answer, must let nobody in."""

    def forgets(connection):
        pass

    class Membership:
        def __call__(self, connection):
            return ["ann"]

    with pytest.raises(TypeError, match="forgets returned None, not True or False"):
        await is_allowed(forgets, Someone(), {})
    with pytest.raises(TypeError, match=r"Membership object at .* returned \['ann'\]"):
        await is_allowed(Membership(), Someone(), {})


async def test_what_takes_no_time_is_answered_at_once():
    assert ask(True, None, {}) is True
    assert ask(lambda connection, room: room == 7, Someone(), {"room": 7}) is True


@pytest.mark.parametrize("blocking", [True, False])
async def test_an_exit_of_a_function_is_an_error_of_it(blocking):
    """A SystemExit that leaves a task would end the process."""

    def exits(connection):
        raise SystemExit(3)

    async def exits_later(connection):
        raise SystemExit(3)

    if blocking:
        exits.blocking = True
    for function in (exits, exits_later):
        with pytest.raises(RuntimeError, match="SystemExit"):
            await is_allowed(function, Someone(), {})


async def test_a_function_runs_in_the_context_of_the_handshake():
    tenant = contextvars.ContextVar("tenant", default=None)
    someone = Someone()
    someone.context.run(tenant.set, "acme")
    assert await is_allowed(lambda connection: tenant.get() == "acme", someone, {}) is True


@pytest.mark.django_db(transaction=True)
@pytest.mark.django_db(transaction=True)
async def test_a_permission_is_that_of_now_not_of_the_handshake():
    with in_the_thread_sensitive_thread():
        user = await DjangoUser.objects.acreate(username="ann")
        view = await Permission.objects.aget(codename="view_user")
        someone = Someone(user)
        assert not await is_allowed("auth.view_user", someone, {})
        await sync_to_async(user.user_permissions.add)(view)
        assert await is_allowed("auth.view_user", someone, {})
        await sync_to_async(user.user_permissions.clear)()
        assert not await is_allowed("auth.view_user", someone, {})
        await DjangoUser.objects.filter(pk=user.pk).aupdate(is_superuser=True)
        assert await is_allowed("auth.view_user", someone, {})
        await DjangoUser.objects.all().adelete()
        assert not await is_allowed("auth.view_user", someone, {})


async def test_a_user_that_a_test_made_up_is_asked_itself():
    assert await is_allowed("auth.view_user", Someone(DjangoUser(pk=7, is_superuser=True)), {})
    assert await is_allowed("auth.view_user", Someone(DjangoUser(is_superuser=True)), {})
