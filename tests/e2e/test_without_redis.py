"""Rules, users, histories and presence in one process without Redis, as with two and one."""

from types import SimpleNamespace

import pytest

from . import test_groups, test_history
from . import test_presence as presence
from .processes import Daphne, Uvicorn

SITE = "tests.e2e.lone_site:application"


class Route:
    """A server whose clients connect to one of its routes."""

    def __init__(self, server, name):
        self.http = server.http
        self.pid, self.port = server.pid, server.port
        self._server, self._name = server, name

    def ws(self, path="/"):
        return self._server.ws(f"/{self._name}{path}")


@pytest.fixture(scope="module", params=[Daphne, Uvicorn])
def server(request, database):
    env = {
        **database,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.lone_settings",
        "TEST_FWS": f'{{"RECHECK": {test_groups.RECHECK}}}',
    }
    server = request.param(SITE, env=env)
    yield server
    server.stop()


@pytest.mark.promise
@pytest.mark.parametrize(
    "test",
    [
        test_groups.test_rules_decide_in_both_processes_and_a_refusal_ends_nothing,
        test_groups.test_the_site_subscribes_and_unsubscribes_a_user_in_all_processes,
        test_groups.test_a_right_that_ends_ends_the_subscription_in_all_processes,
        test_groups.reach,
    ],
)
async def test_rules_and_users(server, test):
    route = Route(server, "groups")
    await test((route, route))


async def test_10_000_joins_end_at_max_groups_and_leave_nothing(server):
    test = test_groups.test_10_000_joins_of_declared_names_end_at_max_groups_and_leave_nothing
    await test([Route(server, "groups")], 0)


@pytest.mark.parametrize(
    "test",
    [
        test_history.test_who_comes_back_to_the_other_process_has_everything_once_and_in_order,
        test_history.test_a_joiner_gets_the_latest_and_what_a_filter_hides_stays_hidden,
        test_history.test_who_comes_back_when_too_much_was_missed_is_told_and_gets_no_part,
        test_history.test_who_comes_back_and_reads_nothing_takes_a_bounded_amount_of_memory,
    ],
)
async def test_histories(server, test):
    await test(SimpleNamespace(servers=[Route(server, "history")]))


async def look(page, room, infos):
    """The process says who is there, as nobody else can."""
    answer = await page.ask(f"?{room}")
    assert answer["who"] == {key: list(info) for key, info in infos.items()}
    assert answer["stats"] == [len(infos), len({info.user for info in infos.values()})]


async def test_presence(server):
    route = Route(server, "presence")
    await presence.come_and_go(route, route, look)


async def test_an_info_of_a_megabyte_is_refused_and_takes_no_memory(server):
    await presence.refuse_long_infos(Route(server, "presence"), look=look)
