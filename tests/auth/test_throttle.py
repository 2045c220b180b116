"""Bad credentials are counted by address, and delayed."""

import asyncio

import pytest

from filtered_websocket.auth import throttle
from filtered_websocket.auth.addresses import address_of
from filtered_websocket.auth.throttle import MAX_ADDRESSES, MAX_DELAY, WINDOW, Throttle


@pytest.fixture
def clock(monkeypatch):
    """``clock[0]`` is the time."""
    now = [1000.0]
    monkeypatch.setattr(throttle.time, "monotonic", lambda: now[0])
    return now


def note(counted, address, times):
    return [counted.note(address) for _ in range(times)]


def test_an_address_is_over_after_ten_bad_credentials_and_not_before():
    counted = Throttle()
    note(counted, "1.2.3.4", 9)
    assert not counted.is_over("1.2.3.4")
    note(counted, "1.2.3.4", 1)
    assert counted.is_over("1.2.3.4")
    assert not counted.is_over("1.2.3.5")


def test_each_answer_waits_longer_up_to_a_second_and_what_is_over_does_not_wait():
    delays = note(Throttle(), "1.2.3.4", 12)
    assert delays[:10] == [MAX_DELAY * n / 10 for n in range(1, 11)]
    assert delays[10:] == [0.0, 0.0]


def test_asking_counts_nothing_and_remembers_nobody():
    counted = Throttle()
    for _ in range(20):
        assert not counted.is_over("1.2.3.4")
    assert len(counted) == 0


def test_the_window_ends_and_the_count_begins_anew(clock):
    counted = Throttle()
    note(counted, "1.2.3.4", 11)
    clock[0] += WINDOW - 0.001
    assert counted.is_over("1.2.3.4")
    clock[0] += 0.001
    assert not counted.is_over("1.2.3.4")
    assert counted.note("1.2.3.4") == MAX_DELAY / 10
    assert not counted.is_over("1.2.3.4") and len(counted) == 1


def test_more_guesses_do_not_prolong_the_window(clock):
    counted = Throttle()
    note(counted, "1.2.3.4", 10)
    clock[0] += WINDOW - 1
    note(counted, "1.2.3.4", 10)
    clock[0] += 1
    assert not counted.is_over("1.2.3.4")


def test_the_limit_is_read_live_and_none_turns_it_off(settings):
    counted = Throttle()
    settings.FILTERED_WEBSOCKET = {"GUESS_LIMIT": None}
    assert note(counted, "1.2.3.4", 50) == [0.0] * 50
    assert not counted.is_over("1.2.3.4")
    settings.FILTERED_WEBSOCKET = {"GUESS_LIMIT": 1}
    assert counted.is_over("1.2.3.4")
    assert note(Throttle(), "1.2.3.4", 2) == [MAX_DELAY, 0.0]


def test_its_memory_is_bounded_whoever_comes(monkeypatch):
    monkeypatch.setattr(throttle, "MAX_ADDRESSES", 3)
    counted = Throttle()
    for n in range(10):
        counted.note(f"10.0.0.{n}")
    assert len(counted) == 3
    assert MAX_ADDRESSES == 10_000


def test_who_is_known_takes_nobodys_place(monkeypatch):
    monkeypatch.setattr(throttle, "MAX_ADDRESSES", 2)
    counted = Throttle()
    note(counted, "10.0.0.1", 10)
    note(counted, "10.0.0.2", 20)
    assert counted.is_over("10.0.0.1") and counted.is_over("10.0.0.2")


def test_whose_window_ends_first_is_forgotten_first_also_if_seen_before(clock, monkeypatch):
    monkeypatch.setattr(throttle, "MAX_ADDRESSES", 2)
    counted = Throttle()
    counted.note("10.0.0.1")
    clock[0] += WINDOW - 1
    counted.note("10.0.0.2")
    clock[0] += 1
    note(counted, "10.0.0.1", 10)  # a new window
    counted.note("10.0.0.3")
    assert counted.is_over("10.0.0.1")
    assert len(counted) == 2


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:4711", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("[2001:DB8:1:2::9]", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:443", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("[fe80::1%eth0]:9", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unknown", ""),
        ("_hidden", ""),
        ("1.2.3", ""),
        ("1.2.3.4.5", ""),
        ("[2001:db8::1", "2001:db8::/64"),
        ("[", ""),
        ("%", ""),
        ("é" * 10_000, ""),
    ],
)
def test_an_address_is_counted_without_its_port_and_ipv6_by_its_network(peer, address):
    assert address_of({"client": (peer, 4711), "headers": []}) == address


@pytest.mark.parametrize("scope", [{}, {"client": None}, {"client": ("", None)}])
def test_a_peer_without_an_address_has_the_empty_one(scope, settings):
    assert address_of(scope) == ""
    settings.FILTERED_WEBSOCKET = {"TRUSTED_PROXIES": 1}
    assert address_of(scope) == ""


def behind(*forwarded, peer="10.0.0.1"):
    headers = [(b"host", b"x"), *((b"x-forwarded-for", value) for value in forwarded)]
    return address_of({"client": (peer, 1), "headers": headers})


def test_without_trusted_proxies_nobody_is_believed():
    assert behind(b"203.0.113.9") == "10.0.0.1"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (1, [b"203.0.113.9"], "203.0.113.9"),
        (1, [b"198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (1, [b"198.51.100.1", b"203.0.113.9"], "203.0.113.9"),
        (1, [b"2001:db8::1, [2001:db8:9::1]:77"], "2001:db8:9::/64"),
        (2, [b"1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        (2, [b"1.1.1.1,203.0.113.9", b"10.0.0.2"], "203.0.113.9"),
        # Shorter than the chain of proxies: none of them wrote it all.
        (2, [b"203.0.113.9"], "10.0.0.1"),
        (1, [], "10.0.0.1"),
        (1, [b""], "10.0.0.1"),
        (1, [b"unknown"], "10.0.0.1"),
        (1, [b"\xff\xfe"], "10.0.0.1"),
    ],
)
def test_of_trusted_proxies_what_the_outermost_saw_counts(settings, proxies, forwarded, address):
    settings.FILTERED_WEBSOCKET = {"TRUSTED_PROXIES": proxies}
    assert behind(*forwarded) == address


def test_a_made_up_x_forwarded_for_does_not_begin_a_new_count(settings):
    settings.FILTERED_WEBSOCKET = {"TRUSTED_PROXIES": 1}
    counted = Throttle()
    for n in range(10):
        counted.note(behind(b"198.51.100.%d, 203.0.113.9" % n))
    assert counted.is_over(behind(b"203.0.113.9"))
    assert len(counted) == 1


async def test_a_query_that_was_cancelled_is_made_anew(monkeypatch):
    async def run_query(call, digests):
        return frozenset(digests)

    monkeypatch.setattr(throttle, "run_query", run_query)
    monkeypatch.setattr(throttle, "LOOKUP_EVERY", 0)
    lookups = throttle.KeyLookups()
    first = asyncio.ensure_future(lookups.is_known("a"))
    await asyncio.sleep(0)
    [(query, _)] = lookups._next.values()
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await lookups.is_known("b")
