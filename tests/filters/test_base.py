"""Chains: filters.base."""

import asyncio
import functools
import threading

import pytest
import six
from asgiref.sync import sync_to_async

from filtered_websocket import (
    Close,
    Drop,
    FilterBase,
    FilterMeta,
    WebSocketDataFilter,
    WebSocketMessageFilter,
)
from filtered_websocket.chains.chain import Chain
from filtered_websocket.exceptions import FilterError
from filtered_websocket.filters.base import printable

from ..connections.test_connection import message_filter


def printing_chain(make_base):
    base = make_base()

    class B(base):
        @classmethod
        def filter(cls, web_socket_instance, data):
            print("foo")

    class C(base):
        @classmethod
        def filter(cls, web_socket_instance, data):
            print("bar")

    return base


def with_metaclass_keyword():
    class AFilter(FilterMeta):
        pass

    class A(FilterBase, metaclass=AFilter):
        pass

    return A


def with_six():
    class AFilter(FilterMeta):
        pass

    @six.add_metaclass(AFilter)
    class A(FilterBase):
        pass

    return A


@pytest.mark.parametrize("make_base", [with_metaclass_keyword, with_six])
def test_the_2014_example_prints_foo_bar(make_base, capsys):
    printing_chain(make_base).run(object())
    assert capsys.readouterr().out == "foo\nbar\n"


def test_chains_of_one_metaclass_do_not_share_their_filters(capsys):
    one, other = printing_chain(with_metaclass_keyword), printing_chain(with_metaclass_keyword)
    one.run(None)
    assert capsys.readouterr().out == "foo\nbar\n"
    assert one._own_chain.filters != other._own_chain.filters


def make_chain(*functions, **namespace):
    """A chain of plain functions, each made a classmethod."""
    base = with_metaclass_keyword()
    for function in functions:
        type(base)(
            function.__name__,
            (base,),
            {"filter": classmethod(function), "__module__": __name__, **namespace},
        )
    return base


def test_a_returned_value_is_the_next_filters_input():
    chain = make_chain(lambda cls, i, data: data + 1, lambda cls, i, data: data * 10)
    assert chain.run(None, 1) == 20


def test_none_means_as_it_is_now():
    def pop(cls, instance, data):
        data.pop()

    assert make_chain(pop, lambda cls, i, data: None).run(None, [1, 2]) == [1]


@pytest.mark.parametrize("error", [Drop(), Close(4000), KeyError("x")])
async def test_what_a_filter_raises_comes_out_and_ends_the_chain(error):
    def fail(cls, instance, data):
        raise error

    def never(cls, instance, data):
        raise AssertionError("a later filter ran")

    chain = make_chain(fail, never)
    with pytest.raises(type(error)):
        chain.run(None)
    with pytest.raises(type(error)):
        await chain.arun(None)


@pytest.mark.parametrize("run", ["run", "arun"])
async def test_a_filter_error_names_the_filter_that_raised(run):
    class Faulty(with_metaclass_keyword()):
        @classmethod
        def filter(cls, web_socket_instance, data):
            raise KeyError("x")

    chain = Chain("message", [Faulty])
    with pytest.raises(FilterError) as caught:
        result = getattr(chain, run)(None)
        await result
    assert caught.value.path.endswith("Faulty")
    assert isinstance(caught.value.__cause__, KeyError)


async def test_async_filters_are_awaited_by_arun_and_refused_by_run():
    async def later(cls, instance, data):
        await asyncio.sleep(0)
        return data + "!"

    chain = make_chain(later)
    assert await chain.arun(None, "a") == "a!"
    with pytest.raises(RuntimeError, match=r"a filter in A awaits: use 'await A\.arun\(\)'"):
        chain.run(None, "a")


async def test_a_timeout_is_told_from_a_filters_own():
    async def own(web_socket_instance, data):
        raise TimeoutError("the filter's own")

    async def waits(web_socket_instance, data):
        await asyncio.get_running_loop().create_future()

    for function, words in ((own, "the filter's own"), (waits, "FILTER_TIMEOUT is 0.01 s")):
        cls = message_filter(function)
        with pytest.raises(FilterError) as caught:
            await Chain("message", [cls], timeout=0.01).arun(None)
        assert str(caught.value.__cause__) == words


def test_where_there_is_no_timeout_a_filter_is_called_as_it_is():
    async def filter(web_socket_instance, data):
        return data

    cls = message_filter(filter)
    assert Chain("message", [cls]).stages[0].call is filter
    assert Chain("message", [cls], timeout=1).stages[0].call is not filter


async def test_blocking_filters_run_in_a_thread_of_the_packages_pool():
    def where(cls, instance, data):
        return threading.current_thread().name

    chain = make_chain(where, blocking=True)
    assert (await chain.arun(None)).startswith("fws-blocking")
    assert chain.run(None) == threading.current_thread().name


def awaiting_in_disguise():
    """Filters that await and do not look like it."""

    async def late(web_socket_instance, data):
        await asyncio.sleep(0)
        raise Drop

    @functools.wraps(late)
    def disguised(*args):
        return late(*args)

    del disguised.__wrapped__
    return [
        staticmethod(sync_to_async(lambda instance, data: _drop())),
        staticmethod(disguised),
    ]


def _drop():
    raise Drop


@pytest.mark.parametrize("index", [0, 1])
async def test_a_filter_that_awaits_in_disguise_does_not_fail_open(index):
    base = with_metaclass_keyword()
    type(base)("Late", (base,), {"filter": awaiting_in_disguise()[index]})
    with pytest.raises(Drop):
        await base.arun(None)


def test_a_filter_that_awaits_in_disguise_is_refused_where_nothing_can_await():
    base = with_metaclass_keyword()
    type(base)("Late", (base,), {"filter": awaiting_in_disguise()[1]})
    with pytest.raises(TypeError, match="write it as 'async def'"):
        base.run(None)


async def test_stop_iteration_in_a_thread_is_an_error_like_any_other():
    def stop(cls, instance, data):
        raise StopIteration("oh")

    with pytest.raises(RuntimeError, match="StopIteration: oh"):
        await make_chain(stop, blocking=True).arun(None)


def test_a_filter_may_do_without_data_and_be_a_staticmethod():
    seen = []

    base = with_metaclass_keyword()

    class Without(base):
        @staticmethod
        def filter(web_socket_instance):
            seen.append(web_socket_instance)

    assert base.run("instance", "data") == "data"
    assert seen == ["instance"]


@pytest.mark.parametrize(
    ("namespace", "words"),
    [
        ({"filter": lambda self, i, d: None}, "is an instance method: make it a classmethod"),
        ({"filter": classmethod(lambda cls: None)}, "must take"),
        ({"filter": classmethod(lambda cls, a, b, c: None)}, "must take"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_defined(namespace, words):
    base = with_metaclass_keyword()
    with pytest.raises(TypeError, match=words):
        type(base)("Odd", (base,), namespace)


def test_a_filter_cannot_be_blocking_and_async():
    async def later(cls, instance, data):
        raise AssertionError

    with pytest.raises(TypeError, match="choose one"):
        make_chain(later, blocking=True)


def test_a_filter_cannot_be_on_two_chains():
    with pytest.raises(TypeError, match="WebSocketDataFilter and WebSocketMessageFilter"):
        type(WebSocketDataFilter)("Both", (WebSocketDataFilter, WebSocketMessageFilter), {})


def test_a_leading_underscore_keeps_a_helper_base_out():
    base = with_metaclass_keyword()

    class _Helper(base):
        pass

    class Real(_Helper):
        @classmethod
        def filter(cls, web_socket_instance, data):
            return "real"

    assert base._own_chain.filters == (Real,)
    assert base.run(None) == "real"


async def test_a_filter_without_filter_says_so():
    base = with_metaclass_keyword()

    class Empty(base):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty defines no filter\(\)"):
        base.run(None)
    with pytest.raises(NotImplementedError):
        await base.arun(None)


@pytest.mark.parametrize("returned", ["Tes", b"Tes", memoryview(b"Tes"), bytearray(b"Tes")])
async def test_bytes_stay_mutable_whatever_a_filter_returns(returned):
    base = with_metaclass_keyword()

    class Return(base):
        @classmethod
        def filter(cls, web_socket_instance, data):
            return returned

    class Pop(base):
        @classmethod
        def filter(cls, web_socket_instance, data):
            data.pop()

    chain = Chain("message", [Return, Pop], bytes_only=True)
    assert chain.run(None, bytearray()) == bytearray(b"Te")
    returned = "Tes"
    assert await chain.arun(None, bytearray()) == bytearray(b"Te")


def test_printable_output_cannot_be_forged():
    assert printable(b"a\nERROR x\x1b[31m") == "a\\nERROR x\\x1b[31m"
    assert printable(bytearray("grün \u2028\xff".encode("latin-1", "replace"))) != ""
    assert printable(b"\xff") == "\\xff"
    assert printable({"a": 1}) == "{'a': 1}"
