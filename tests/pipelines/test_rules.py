"""Group rules: declared like URLs; who may join, publish and see."""

import sys
import types

import pytest
from django.urls import converters, register_converter
from django.urls.converters import get_converters

from filtered_websocket.groups import GroupRule, History, group, personal
from filtered_websocket.pipelines.entries import PipelineError
from filtered_websocket.pipelines.rules import load_rules, make_rules


async def blocking_and_async(connection):
    return True


blocking_and_async.blocking = True


def rules(*listed):
    return make_rules(listed, "the rules")


def found(name, *listed):
    match = rules(*listed).find(name)
    return None if match is None else (match.rule.pattern, match.captured)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("news", ("news", {})),
        ("room:7", ("room:<int:room>", {"room": 7})),
        ("room:x", None),
        ("room:7 ", None),
        ("room:7\n", None),
        ("room:", None),
        ("board:a-b", ("board:<slug:name>", {"name": "a-b"})),
        ("any/thing/else", ("any/<path:rest>", {"rest": "thing/else"})),
        ("newsletter", None),
        ("", None),
    ],
)
def test_the_first_pattern_that_matches_decides(name, outcome):
    listed = [
        group("news"),
        group("room:<int:room>"),
        group("board:<slug:name>"),
        group("any/<path:rest>"),
    ]
    assert found(name, *listed) == outcome


def test_the_first_of_two_that_match_decides():
    listed = group("<slug:name>", join=False), group("<str:name>")
    assert found("a-b", *listed)[0] == "<slug:name>" and found("a b", *listed)[0] == "<str:name>"


def test_converters_of_the_site_are_known(monkeypatch):
    class Even:
        regex = "[0-9]+"

        def to_python(self, value):
            if int(value) % 2:
                raise ValueError
            return int(value)

        def to_url(self, value):
            return str(value)

    register_converter(Even, "even")
    try:
        assert found("n:4", group("n:<even:number>")) == ("n:<even:number>", {"number": 4})
        assert found("n:3", group("n:<even:number>")) is None
    finally:
        get_converters.cache_clear()
        converters.REGISTERED_CONVERTERS.pop("even")


def test_the_names_of_users_and_tokens_match_no_pattern():
    listed = rules(group("<str:any>"), personal(history=History(1, 1)))
    assert listed.find("user:5").rule is listed.personal and listed.find("user:5").captured == {}
    assert listed.find("token:5") is None
    assert rules(group("<str:any>")).find("user:5") is None


def test_rules_are_listed_with_that_of_users_last():
    listed = rules(personal(), group("a"), group("b"))
    assert list(map(str, listed)) == ["group('a')", "group('b')", "personal()"]
    assert listed.personal is not None and rules(group("a")).personal is None


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([3], "entry 0 is 3. Write group('name', ...) or personal(...)"),
        ([personal(), personal()], "has two personal() rules. Leave one"),
        ([group("a"), group("a", join=False)], "has group('a') twice"),
        ([group("<str:x>"), group("a")], "group('a') is never used: group('<str:x>') comes first"),
        ([group("<path:x>"), group("a:<int:x>")], "group('a:<int:x>') is never used: group('<path"),
        ([group("<str:x>"), group("<slug:a>-<int:b>")], "is never used: group('<str:x>')"),
        ([group("a:<slug:x>"), group("a:<uuid:x>")], "is never used: group('a:<slug:x>')"),
        ([group("a:<int:x>"), group("a:<int:y>")], "is never used: group('a:<int:x>')"),
        ([group("a:<int:x>", join=lambda connection: True)], "unexpected keyword argument 'x'. N"),
        ([group("a:<int:x>", see=lambda one, x, y: True)], "called with (connection, x=...): miss"),
        ([group("a:<int:c>", publish=lambda c: True)], "publish=<lambda> is called with (conn"),
        ([personal(publish=lambda connection, pk: True)], "personal(): publish=<lambda> is called"),
        ([group("a", join=blocking_and_async)], "blocking_and_async is async and has blocking"),
        ([group("a:<nothing:x>")], "'nothing'"),
        ([group("a:<int:1x>")], "isn't a valid Python identifier"),
        ([group("token:<str:x>")], "names that begin with 'token:' are the groups of tokens"),
        ([group("user:<int:x>")], "are the groups of users. Write personal(...)"),
    ],
)
def test_a_rule_that_cannot_be_used_is_an_error_that_names_it(listed, words):
    with pytest.raises(PipelineError) as raised:
        rules(*listed)
    assert words in str(raised.value) and raised.value.id == "filtered_websocket.E023"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a:<int:x>", "a:<slug:x>"),
        ("a:<int:x>", "a:<str:x>"),
        ("a:<slug:x>", "a:<str:x>"),
        ("a:<uuid:x>", "a:<slug:x>"),
        ("<str:x>", "<path:x>"),
        ("<str:x>", "a/<int:x>"),
        ("1<int:x>", "<int:x>"),
        ("<int:x>0", "<int:x>"),
        ("0", "<int:x>"),
        ("a:<int:x>", "b:<int:x>"),
        ("<path:x>", "<int:a>.<int:b>.<int:c>.<int:d>.<int:e>.<int:f>.<int:g>"),
    ],
)
def test_a_rule_that_matches_more_may_come_later(first, second):
    assert len(list(rules(group(first), group(second)))) == 2


def test_nobody_can_tell_what_a_converter_of_the_site_hides(monkeypatch):
    class Known(converters.IntConverter):
        def to_python(self, value):
            if value != "0":
                raise ValueError
            return 0

    register_converter(Known, "known")
    try:
        assert rules(group("<known:x>"), group("<int:x>")).find("0").rule.pattern == "<known:x>"
        assert len(list(rules(group("<int:x>"), group("<known:x>")))) == 2
        with pytest.raises(PipelineError, match="is never used"):
            rules(group("<known:x>"), group("0"))
    finally:
        converters.REGISTERED_CONVERTERS.pop("known")
        get_converters.cache_clear()


def test_a_function_that_takes_anything_or_is_written_in_c_may_be_asked():
    takes_all = group("a:<int:x>", join=lambda *args, **captured: True)
    assert len(list(rules(takes_all, group("b:<int:x>", join=max)))) == 2
    assert len(list(rules(group("c", join=max)))) == 1


@pytest.mark.parametrize("listed", ["news", {"a": 1}, None, group("a")])
def test_what_is_no_list_of_rules_is_an_error(listed):
    with pytest.raises(PipelineError, match=r"It must be a list of group\(...\)"):
        make_rules(listed, "the rules")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: group(3), TypeError, "the pattern is a text"),
        (lambda: group(""), TypeError, "the pattern is a text"),
        (lambda: group("a", join=3), TypeError, r"group\('a'\): join is True, False, a permission"),
        (lambda: group("a", join=None), TypeError, "join is True"),
        (lambda: group("a", see=[]), TypeError, "see is True"),
        (lambda: group("a", presence=1), TypeError, "presence is True or False, not 1"),
        (lambda: group("a", history=5), TypeError, r"history is History\(size="),
        (lambda: group("a", join_leave=True), ValueError, "join_leave=True needs presence=True"),
        (lambda: personal(latest=True), ValueError, r"personal\(\): latest=True needs history"),
        (lambda: History(0, 1), ValueError, r"History\(size=0\): it is an int above 0"),
        (lambda: History(True, 1), ValueError, "size=True"),
        (lambda: History(1, 0), ValueError, r"History\(ttl=0\): it is a number of seconds"),
        (lambda: History(1, "1"), ValueError, "ttl='1'"),
        (lambda: History(1, float("nan")), ValueError, "ttl=nan"),
    ],
)
def test_an_argument_that_means_nothing_is_an_error_where_it_is_written(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_what_lasts_has_a_size_and_a_time():
    assert group("a", history=History(1, 0.5), latest=True).history == History(size=1, ttl=0.5)


def test_who_may_see_is_who_may_join_where_nothing_else_is_said():
    assert group("a", join="x.y").allowed("see") == "x.y"
    assert group("a", join="x.y", see=False).allowed("see") is False
    assert group("a", join="x.y").allowed("join") == "x.y"
    assert personal().allowed("see") is False and personal().allowed("publish") is False
    assert isinstance(personal(), GroupRule)


# Loading


@pytest.fixture
def module(monkeypatch):
    made = types.ModuleType("site_groups")
    monkeypatch.setitem(sys.modules, "site_groups", made)
    return made


def test_rules_are_loaded_from_a_module_or_a_list_of_it(module):
    module.grouppatterns = [group("a")]
    module.others = (group("b"),)
    assert list(map(str, load_rules("site_groups"))) == ["group('a')"]
    assert list(map(str, load_rules("site_groups.others"))) == ["group('b')"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.groups", "GROUPS 'nowhere.groups': there is no module"),
        ("site_groups", "Name a module with a list grouppatterns"),
        ("site_groups.others", "Name a module with a list grouppatterns"),
        ("tests.broken_module", "importing 'tests.broken_module' fails"),
    ],
)
def test_rules_that_cannot_be_loaded_are_an_error(module, path, words):
    with pytest.raises(PipelineError) as raised:
        load_rules(path)
    assert words in str(raised.value)
