"""Origin, host and path of a handshake."""

from urllib.parse import unquote

import pytest
from django.conf import settings as live_settings

from filtered_websocket.connections import handshake as module
from filtered_websocket.connections.handshake import (
    REMEMBERED,
    is_host_allowed,
    is_plain_path,
    refusal_reason,
)
from filtered_websocket.connections.origins import (
    Origin,
    is_same_origin,
    normal_origin,
    one_of_origins,
    parse_origin,
    site_rule,
)
from filtered_websocket.connections.refusals import cure_of

from ..costs import ends, is_linear

NOT_ALLOWED = "the origin is not allowed"
NONE = "the Origin header is malformed"


def handshake(*origins, host="testserver", path="/", **more):
    """A scope; ``more`` are headers, with _ for -."""
    headers = [(b"origin", one.encode("latin-1")) for one in origins]
    if host is not None:
        headers.append((b"host", host.encode("latin-1")))
    headers += [(name.replace("_", "-").encode(), more[name].encode()) for name in more]
    return {"path": unquote(path), "raw_path": path.encode("latin-1"), "headers": headers}


def refused_for(*origins, rule=site_rule, **more):
    return refusal_reason(handshake(*origins, **more), rule, any_host=False)


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("http://testserver", ""),
        ("https://testserver", ""),
        ("https://TESTSERVER:8443", ""),
        ("HTTP://testserver", ""),
        ("http://127.0.0.1:5173", ""),
        ("http://evil.example", NOT_ALLOWED),
        ("http://testserver.evil.example", NOT_ALLOWED),
        ("http://eviltestserver", NOT_ALLOWED),
        ("http://testserver.", NOT_ALLOWED),
        ("http://testserver,http://evil.example", NONE),
        ("http://testserver@evil.example", NONE),
        ("http://evil.example@testserver", NONE),
        ("http://@testserver", NONE),
        ("http://testserver/", NONE),
        ("http://testserver/evil", NONE),
        ("http://testserver?evil", NONE),
        ("http://testserver#evil", NONE),
        ("http://test\tserver", NONE),
        ("http://testserver:99999", NONE),
        ("http://testserver:evil", NONE),
        ("http://[::1", NONE),
        ("http://", NONE),
        ("http://:80", NONE),
        ("//testserver", NONE),
        ("testserver", NONE),
        # Apps have to be listed, whatever their host is called.
        ("ftp://testserver", NOT_ALLOWED),
        ("file://", NOT_ALLOWED),
        ("capacitor://testserver", NOT_ALLOWED),
        ("chrome-extension://testserver", NOT_ALLOWED),
        ("null", NOT_ALLOWED),
        ("Null", NONE),
        ("file://x/", NONE),
        ("file:///etc/passwd", NONE),
        ("ws://testserver", NONE),
        ("://testserver", NONE),
        ("1x://testserver", NONE),
        ("app://", NONE),
        ("app://testserver/", NONE),
        ("app://me@testserver", NONE),
        ("app://*", NONE),
        ("app://test server", NONE),
        ("app://testserver:x", NONE),
        ("", NONE),
        ("http://exämple.com", NONE),
    ],
)
def test_without_a_list_an_origin_is_a_host_of_this_site(origin, answer):
    assert refused_for(origin) == answer


def test_two_origins_are_none_even_if_both_are_good():
    assert refused_for("http://testserver", "http://testserver") == NONE
    with pytest.raises(ValueError, match="more than one"):
        parse_origin(handshake("http://testserver", "http://testserver"))


def test_no_origin_is_no_browser_and_allowed_unless_the_site_says_no(settings):
    assert refused_for() == ""
    settings.FILTERED_WEBSOCKET = {"ALLOW_NO_ORIGIN": False}
    assert refused_for() == "no Origin header, and ALLOW_NO_ORIGIN is False"
    assert refused_for("http://testserver") == ""


def test_an_ipv6_origin_is_compared_in_brackets(settings):
    settings.ALLOWED_HOSTS = ["[::1]"]
    assert refused_for("http://[::1]:9000", host="[::1]:9000") == ""
    assert refused_for("http://[::2]:9000", host="[::1]:9000") == NOT_ALLOWED


LISTED = [
    "https://example.com",
    "https://example.com:8443",
    "http://[::1]:9000",
    "https://*.wild.example",
    "http://*.wild.example:8080/",
]


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("https://example.com", ""),
        ("https://example.com:443", ""),
        ("https://EXAMPLE.com:8443", ""),
        ("http://[::1]:9000", ""),
        ("https://a.wild.example", ""),
        ("https://a.b.wild.example", ""),
        ("http://a.wild.example:8080", ""),
        # ALLOWED_HOSTS does not count any more.
        ("https://testserver", NOT_ALLOWED),
        ("http://example.com", NOT_ALLOWED),
        ("https://example.com:444", NOT_ALLOWED),
        ("http://example.com:443", NOT_ALLOWED),
        ("https://www.example.com", NOT_ALLOWED),
        ("http://[::1]", NOT_ALLOWED),
        ("https://wild.example", NOT_ALLOWED),
        ("https://evilwild.example", NOT_ALLOWED),
        ("https://a.wild.example.evil.example", NOT_ALLOWED),
        ("http://a.wild.example", NOT_ALLOWED),
        ("https://a.wild.example:8080", NOT_ALLOWED),
        ("https://example.com@evil.example", NONE),
        ("null", NOT_ALLOWED),
        ("app://example.com", NOT_ALLOWED),
    ],
)
def test_a_listed_origin_is_compared_with_scheme_and_port(settings, origin, answer):
    settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": LISTED}
    assert refused_for(origin) == answer
    assert refused_for(origin, rule=one_of_origins(LISTED)) == answer


OF_APPS = [
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "app://site.example:8080",
    "null",
    "file://",
]


@pytest.mark.parametrize("origin", OF_APPS)
def test_the_origin_of_an_app_can_be_listed_and_is_that_app_alone(settings, origin):
    settings.ALLOWED_HOSTS = ["*"]
    for listed, answer in (
        (None, NOT_ALLOWED),
        ([origin], ""),
        ([origin.upper() if "://" in origin else origin], ""),
        (["https://localhost", *(other for other in OF_APPS if other != origin)], NOT_ALLOWED),
        (["app://site.example", "capacitor://localhost:1", "tauri://*.x"], None),
    ):
        settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": listed}
        assert refused_for(origin) == (
            "the origin cannot be compared" if answer is None else answer
        )


def test_a_star_allows_every_origin_but_not_what_is_none(settings):
    settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": ["*"]}
    for origin in ("https://evil.example", *OF_APPS):
        assert refused_for(origin) == ""
    assert refused_for("nothing") == NONE


def test_an_empty_list_allows_no_page(settings):
    settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": []}
    assert refused_for("http://testserver") == NOT_ALLOWED
    assert refused_for() == ""


def test_a_list_with_a_mistake_allows_no_page(settings):
    settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": ["https://testserver", "testserver"]}
    assert refused_for("https://testserver") == "the origin cannot be compared"


@pytest.mark.parametrize(
    "text",
    [
        "example.com",
        "//example.com",
        "https://",
        "wss://example.com",
        "https://example.com/path",
        "https://example.com?x",
        "https://example.com#x",
        "https://me@example.com",
        "https://example.com:99999",
        "https://exam ple.com",
        "https://*",
        "https://*.",
        "https://*example.com",
        "https://a.*.example.com",
        "https://*.*.example.com",
        "https://[::1",
        "",
    ],
)
def test_what_is_written_as_no_origin_is_named_with_the_cure(text):
    with pytest.raises(ValueError, match="is no origin: write it as https://example") as told:
        normal_origin(text)
    assert repr(text) in str(told.value)
    with pytest.raises(ValueError, match="is no origin"):
        one_of_origins(["https://example.com", text])


def test_an_origin_is_normal_with_its_port():
    assert normal_origin("HTTPS://Example.COM/") == ("https", "example.com", 443)
    assert normal_origin("http://[::1]") == ("http", "::1", 80)
    assert normal_origin("capacitor://localhost/") == Origin("capacitor", "localhost")
    assert normal_origin("file:///") == normal_origin("file://") == Origin("file")


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://here.example", "here.example", True),
        ("https://here.example", "here.example", True),
        ("https://here.example", "HERE.example:443", True),
        ("http://here.example:80", "here.example", True),
        ("http://here.example:9000", "here.example:9000", True),
        ("http://[::1]:9000", "[::1]:9000", True),
        ("http://here.example:9000", "here.example", False),
        ("http://here.example", "here.example:9000", False),
        ("http://here.example", "here.example:443", False),
        ("http://evil.example", "here.example", False),
        ("http://here.example", None, False),
        ("http://here.example", "", False),
    ],
)
def test_the_same_origin_is_the_host_that_is_connected_to_with_its_port(origin, host, same):
    scope = handshake(origin, host=host)
    assert refusal_reason(scope, is_same_origin, any_host=True) == ("" if same else NOT_ALLOWED)


@pytest.mark.parametrize("host", ["[::1", "here.example:evil", "here.example:99999"])
def test_a_host_that_is_none_is_the_same_as_no_origin(host):
    scope = handshake("http://here.example", host=host)
    assert refusal_reason(scope, is_same_origin, any_host=True) == "the origin cannot be compared"


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("testserver", True),
        ("TestServer:9000", True),
        ("testserver.", True),
        ("testserver.:9000", True),
        ("[2001:db8::1]", True),
        ("[2001:DB8::1]:9000", True),
        ("a.wild.example", True),
        (None, True),
        ("evil.example", False),
        ("evil.example:80", False),
        ("testserver.evil.example", False),
        ("testserver,evil.example", False),
        ("testserver@evil.example", False),
        ("testserver:evil", False),
        ("testserver/", False),
        ("testserver ", False),
        ("[2001:db8::2]", False),
        ("2001:db8::1", False),
        ("[2001:db8::1", False),
        ("", False),
        ("\xff", False),
    ],
)
def test_the_host_header_is_of_this_site(settings, host, ours):
    settings.ALLOWED_HOSTS = ["testserver", "[2001:db8::1]", ".wild.example"]
    scope = handshake(host=host)
    assert is_host_allowed(scope) is ours
    refused = refusal_reason(scope, site_rule, any_host=False)
    assert refused == ("" if ours else "the host is not in ALLOWED_HOSTS")
    assert refusal_reason(scope, site_rule, any_host=True) == ""


def test_of_two_hosts_both_must_be_of_this_site():
    scope = handshake()
    scope["headers"].append((b"host", b"evil.example"))
    assert not is_host_allowed(scope)


def test_the_proxys_host_header_counts_where_the_site_says_so(settings):
    good = handshake(host="inside:8000", x_forwarded_host="testserver")
    evil = handshake(x_forwarded_host="evil.example")
    assert not is_host_allowed(good) and is_host_allowed(evil)
    settings.USE_X_FORWARDED_HOST = True
    assert is_host_allowed(good) and not is_host_allowed(evil)
    assert is_host_allowed(handshake()) and not is_host_allowed(handshake(host="inside:8000"))


def test_with_debug_and_no_allowed_hosts_only_this_machine_is_ours(settings):
    settings.ALLOWED_HOSTS = []
    assert refused_for(host="localhost") == "the host is not in ALLOWED_HOSTS"
    settings.DEBUG = True
    for host in ("localhost:9000", "chat.localhost", "127.0.0.1", "[::1]:9000"):
        assert refused_for(f"http://{host}", host=host) == ""
    assert refused_for("http://evil.example", host="localhost") == NOT_ALLOWED
    assert refused_for(host="evil.example") == "the host is not in ALLOWED_HOSTS"
    settings.ALLOWED_HOSTS = ["testserver"]
    assert refused_for(host="localhost") == "the host is not in ALLOWED_HOSTS"


@pytest.mark.parametrize(
    "path",
    ["/", "/ws/", "/ws/a-b_c.d~e", "/r%C3%A4ume/", "/a%20b/", "/100%25/", "/.well-known/", "/..."],
)
def test_a_path_that_is_written_plainly_passes(path):
    assert refused_for(path=path) == ""


@pytest.mark.parametrize(
    "path",
    [
        "/%77s/",
        "/%57s/",
        "/w%73/",
        "/%7E",
        "/%5f",
        "/%2d",
        "/%30",
        "/ws/%2e%2e/",
        "/public/../ws/",
        "/./ws/",
        "/ws/..",
        "/ws/.",
        "//ws/",
        "/public//ws/",
        "/ws%2F",
        "/%2fws/",
    ],
)
def test_a_path_that_could_pass_by_a_proxys_rule_does_not(path):
    assert refused_for(path=path) == "the path has an unusual encoding"


@pytest.mark.parametrize(
    ("raw", "path"),
    [(b"//evil/ws/", "/ws/"), (b"http://evil/ws/", "/ws/"), (b"/ws/;x", "/ws/"), (b"/ws", "/x")],
)
def test_a_path_that_the_server_read_otherwise_is_not_plain(raw, path):
    assert not is_plain_path({"raw_path": raw, "path": path})


@pytest.mark.parametrize("raw", [{}, {"raw_path": None}])
def test_a_server_that_gives_no_raw_path_is_asked_for_what_it_made_of_it(raw):
    assert is_plain_path({"path": "/ws/ä", **raw})
    assert not is_plain_path({"path": "//ws/", **raw})
    assert not is_plain_path({"path": "/public/../ws/", **raw})


@pytest.mark.parametrize("letters", ["a.", "*.", ".", "a", "%", "[", ":", "a:", "@"])
def test_a_long_origin_and_host_cost_no_more_than_their_length(settings, letters):
    settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": ["https://*.example.com"]}

    def check(long):
        assert refused_for(f"https://{long}example.com") in (NONE, NOT_ALLOWED, "")
        assert refused_for(host=long)

    assert is_linear(check, lambda size: (letters * size)[:size], 65_536)
    with ends():
        check(letters * 524_288)


@pytest.mark.repeats
@pytest.mark.parametrize("letters", ["/.", "%", "%2", "/..%", "a", "%C3", "/a"])
def test_a_long_path_costs_no_more_than_its_length(letters):
    def check(long):
        refused_for(path="/" + long)

    assert is_linear(check, lambda size: (letters * size)[:size], 65_536)
    with ends():
        check(letters * 524_288)


@pytest.mark.parametrize(
    ("chosen", "asked", "cure"),
    [
        ({}, {"path": "/%61"}, "without encoded letters"),
        ({}, {"host": "evil.example"}, "add the host of 'evil.example' to ALLOWED_HOSTS"),
        ({}, {"origin": "nothing"}, "like https://example.com, or none"),
        ({}, {"origin": "http://evil.example"}, "add its host to ALLOWED_HOSTS, or list"),
        (
            {"ALLOWED_ORIGINS": ["https://example.com"]},
            {"origin": "app://x"},
            "add 'app://x' to FILTERED_WEBSOCKET['ALLOWED_ORIGINS']",
        ),
        ({"ALLOWED_ORIGINS": ["x"]}, {"origin": "app://x"}, "run manage.py check"),
        ({"ALLOW_NO_ORIGIN": False}, {}, "remove FILTERED_WEBSOCKET['ALLOW_NO_ORIGIN']"),
    ],
)
def test_every_reason_has_a_cure(settings, chosen, asked, cure):
    settings.FILTERED_WEBSOCKET = chosen
    origin = [asked.pop("origin")] if "origin" in asked else []
    scope = handshake(*origin, **asked)
    reason = refusal_reason(scope, site_rule, any_host=False)
    assert reason and cure in cure_of(scope, reason)


def test_a_server_may_leave_its_root_path_out_of_the_raw_path():
    scope = {"path": "/app/chat/", "root_path": "/app", "raw_path": b"/chat/", "headers": []}
    assert is_plain_path(scope) and is_plain_path({**scope, "raw_path": b"/app/chat/"})
    assert not is_plain_path({**scope, "raw_path": b"/other/"})


# What is remembered


@pytest.fixture
def asked(monkeypatch):
    """The headers that were looked at, each time that no answer was remembered."""
    module._remembered_reason.cache_clear()
    seen, reason = [], module._reason

    def count(headers, *args):
        seen.append(headers)
        return reason(headers, *args)

    monkeypatch.setattr(module, "_reason", count)
    return seen


def test_what_host_and_origin_mean_is_found_out_once(asked):
    for number in range(3):
        assert refused_for("http://testserver", path=f"/{number}/", x_other=str(number)) == ""
        assert refused_for("http://evil.example") == NOT_ALLOWED
    assert len(asked) == 2


def test_an_answer_holds_for_the_settings_that_it_was_found_with(settings, asked):
    origin, host = "http://other.example", "other.example"

    def answers():
        return refused_for(origin), refused_for(origin, host=host), refused_for()

    before = answers()
    assert before == (NOT_ALLOWED, "the host is not in ALLOWED_HOSTS", "")
    for name, value, after in (
        ("ALLOWED_HOSTS", ["testserver", host], ("", "", "")),
        ("FILTERED_WEBSOCKET", {"ALLOWED_ORIGINS": [origin]}, ("", before[1], "")),
        (
            "FILTERED_WEBSOCKET",
            {"ALLOW_NO_ORIGIN": False},
            (*before[:2], "no Origin header, and ALLOW_NO_ORIGIN is False"),
        ),
    ):
        old = getattr(settings, name, {})
        setattr(settings, name, value)
        assert answers() == after
        setattr(settings, name, old)
        assert answers() == before


def test_lists_that_are_changed_in_place_count_at_once(settings, asked, monkeypatch):
    hosts, origins = [], []
    # As a test runner sets it, without a signal.
    monkeypatch.setattr(live_settings, "ALLOWED_HOSTS", hosts)
    settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": origins}
    assert refused_for("http://a.example") == "the host is not in ALLOWED_HOSTS"
    hosts.append("testserver")
    assert refused_for("http://a.example") == NOT_ALLOWED
    origins.append("http://a.example")
    assert refused_for("http://a.example") == ""


def test_hosts_that_a_site_computes_are_asked_for_each_time(settings, asked):
    hosts = ["testserver"]

    class Computed(list):
        def __iter__(self):
            return iter(hosts)

    settings.ALLOWED_HOSTS = Computed()
    assert refused_for() == ""
    hosts.clear()
    assert refused_for() == "the host is not in ALLOWED_HOSTS"
    assert len(asked) == 2


def test_invented_headers_fill_no_memory(settings, asked):
    settings.ALLOWED_HOSTS = ["*"]
    for number in range(2 * REMEMBERED):
        assert refused_for(f"http://{number}.example") == ""
    info = module._remembered_reason.cache_info()
    assert info.currsize == info.maxsize == REMEMBERED
    before = len(asked)
    for _ in range(2):
        refused_for(f"http://{'x' * module.LONGEST_REMEMBERED}.example")
    assert len(asked) == before + 2
