"""What a site needs, on paper: the model, the simulation beside it, and what Redis is asked."""

import json
import uuid
from dataclasses import fields

import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer

from benchmarks import comeback, fleet, machine, members, relay, scale, sizing
from benchmarks import costs as unit
from benchmarks.bench import Bench
from benchmarks.contenders import BY_NAME
from benchmarks.processes import Valkey
from benchmarks.results import Results
from filtered_websocket.layer.envelope import Batch, Item, group_key, new_origin, seal

from .snippets import named

COSTS = unit.Costs(
    publish_us=20,
    receive_us=40,
    deliver_us=10,
    connect_us=500,
    present_us=200,
    process_kib=80 * 1024,
    connection_kib=24,
    group_kib=2,
    redis_publish_us=8,
    redis_deliver_us=0.5,
    redis_kib_us=1,
    cluster_publish_us=14,
    cluster_hear_us=6,
    redis_alone_us=6,
    history_cpu=1.5,
    history_redis_cpu=4,
    members=unit.Members(
        subscribe_us=2,
        unsubscribe_us=1,
        channel_bytes=200,
        subscription_bytes=20,
        present_join_us=30,
        present_leave_us=20,
        present_renew_us=10,
        present_renew_shared_us=49,
        present_alone_bytes=500,
        present_crowd_us=5,
        present_crowd_bytes=100,
    ),
)


def site(**values):
    default = {"connections": 1e6, "rate": 1000, "members": 50, "groups": 1, "size": 100}
    return sizing.Site(**{**default, "busy": 0.6, "most": 10_000, **values})


def plan(processes=100, **values):
    return sizing.plan(site(**values), COSTS, processes)


# The model


@pytest.mark.parametrize(
    ("members", "processes", "spread"), [(1, 100, 1), (50, 1, 1), (2, 2, 1.5), (1e6, 100, 100)]
)
def test_a_group_is_in_as_many_processes_as_chance_has_it(members, processes, spread):
    assert site(members=members).spread(processes) == pytest.approx(spread)


def test_what_a_process_and_redis_have_to_do():
    # Each group in one process: 10 messages a second to each process.
    one = plan(members=1)
    assert one.process_busy == pytest.approx(10 * (20 + 40 + 10) / 1e6)
    # 10 000 connections, each with a group of its own.
    assert one.process_mib == pytest.approx(80 + 10_000 * (24 + 2) / 1024)
    assert one.subscriptions == pytest.approx(1e6)
    assert one.redis_busy == pytest.approx(1000 * (8 + 0.5) / 1e6)
    assert one.hosts == 1
    # 99 processes take 10 000 clients; 100 take all.
    assert one.back_s == pytest.approx(10_000 * 500 / 99 / 1e6)
    assert one.all_back_s == pytest.approx(5)


def test_a_long_message_costs_redis_more_for_each_that_hears_it():
    assert COSTS.push_us(131) == COSTS.push_us(1) == 0.5
    assert COSTS.push_us(131 + 1024) == 1.5
    assert COSTS.push_us(131 + 1024, messages=2) > 2.5


def test_a_history_costs_more_in_processes_and_in_redis():
    kept, plain = plan(members=1, history=True), plan(members=1)
    assert kept.process_busy == pytest.approx(10 * ((20 + 40) * 1.5 + 10) / 1e6)
    assert kept.redis_busy == pytest.approx(1000 * (8 * 4 + 0.5) / 1e6)
    assert kept.process_mib == plain.process_mib


def test_groups_need_memory_of_redis_and_more_for_each_process_and_member():
    # A million groups, each in one process.
    assert plan(members=1).redis_mib == pytest.approx(200e6 / 2**20)
    # 20 000 groups of 50, in all of the processes that they can be in.
    one = plan(processes=2)
    assert one.redis_mib == pytest.approx(20_000 * (200 + 20) / 2**20)
    present = plan(processes=2, presence=True)
    keys = 20_000 * (500 - 100) + 1e6 * 100
    assert present.redis_mib == pytest.approx(one.redis_mib + keys / 2**20)


def test_presence_is_renewed_by_each_process_of_a_group():
    assert COSTS.members.renew_us(1) == 10 and COSTS.members.renew_us(unit.SHARED) == 49
    one, plain = plan(members=1, presence=True), plan(members=1)
    # A million calls every 20 seconds.
    assert one.presence_busy == pytest.approx(1e6 * 10 / 20 / 1e6)
    assert plain.presence_busy == 0
    assert one.redis_busy == pytest.approx(plain.redis_busy + 0.5)
    assert one.node_busy(5) == pytest.approx(plain.node_busy(5) + 0.1)


def test_who_comes_back_has_groups_left_and_joined_in_redis():
    assert plan(members=1).redis_back_s == pytest.approx(3)
    present = plan(members=1, presence=True)
    assert present.redis_back_s == pytest.approx(53)
    assert present.all_back_s == pytest.approx(10_000 * (500 + 200) / 1e6)


def test_there_are_as_many_processes_as_connections_and_messages_need():
    assert sizing.plan(site(rate=1), COSTS).processes == 100
    busy = sizing.plan(site(rate=100_000), COSTS)
    assert busy.processes > 100 and busy.process_busy <= 0.6
    fewer = sizing.Plan(busy.site, COSTS, round(busy.processes * 0.97))
    assert fewer.process_busy > 0.6


def test_hosts_share_what_a_cluster_passes_on_to_all():
    assert plan(rate=50_000).hosts == 3
    # Each message costs each node 6 microseconds: 100 000 of them are 60 % of a core.
    assert plan(rate=50_000, members=1).nodes == 3
    assert plan(rate=110_000, members=1).nodes is None
    assert plan(rate=110_000, members=1).node_busy(1000) > 0.6


# The simulation


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(fleet, "MOST", 2000)


@pytest.mark.parametrize("members", [1, 5, 50, 5000])
def test_the_simulation_counts_what_the_model_says(short, members):
    one = plan(members=members, rate=5000)
    traffic = fleet.simulate(one, 1)
    seconds = traffic.length
    # No group has two messages on its way, or hardly ever.
    assert traffic.commands[0] / seconds == pytest.approx(5000, rel=0.1)
    assert traffic.pushes[0] / seconds == pytest.approx(5000 * one.spread, rel=0.1)
    assert traffic.busy(0) == pytest.approx(one.redis_busy, rel=0.1)
    assert traffic.bytes_out[0] / seconds / 2**20 == pytest.approx(one.out_mib, rel=0.1)
    assert traffic.alone(0) >= traffic.busy(0)


def test_what_is_published_while_a_batch_is_on_its_way_leaves_with_the_next(short):
    one = plan(processes=1, connections=10, members=10, rate=100_000)
    traffic = fleet.simulate(one, 1)
    # One group, one process: one batch in each round trip.
    round_trips = round(traffic.length / fleet.ROUND_TRIP)
    assert traffic.commands[0] <= round_trips + 2
    assert traffic.messages == fleet.MOST


def test_hosts_have_about_as_much_to_do_and_the_same_in_all(short):
    one = plan(rate=5000)
    alone, shared = fleet.simulate(one, 1), fleet.simulate(one, 4)
    assert shared.pushes.total() == alone.pushes.total()
    assert max(map(shared.busy, range(4))) < alone.busy(0) / 3


def test_a_group_is_in_the_same_processes_each_time():
    assert fleet.members_of(7, 50, 100) == fleet.members_of(7, 50, 100)
    assert fleet.members_of(7, 5000, 100) == set(range(100))


# What is measured


def test_the_bytes_around_a_message_are_those_of_the_package():
    key = group_key("room")
    item = Item(123_456, "t", str(uuid.uuid4()), b"x" * 256, {})
    layer = RedisPubSubChannelLayer(hosts=["redis://127.0.0.1"])
    data = layer.serialize(seal(Batch(new_origin(), key, 123_456, [item])))
    name = b"asgi__group__" + key.encode()
    assert len(data) - 256 == pytest.approx(unit.ENVELOPE, abs=3)
    for word in (b"PUBLISH", b"message"):
        assert len(relay.command(word, name, data)) - 256 == pytest.approx(unit.FRAMED, abs=3)


def test_a_line_through_costs():
    assert relay.line({0: 5.0, 10: 10.0, 20: 15.0}) == pytest.approx((5, 0.5))


def test_what_redis_needs_is_measured_with_real_ones():
    figures = relay.measure(rounds=1, subscribers=(0, 2))
    assert figures.keys() == json.loads(relay.RESULTS.read_text())["figures"].keys()
    assert figures["publish_us"] > 0


def test_what_members_cost_redis_is_measured_with_a_real_one():
    with Valkey(machine.LOAD_CORE) as valkey:
        figures = members.measure(valkey, 80)
    assert figures.keys() == {field.name for field in fields(unit.Members)}
    assert figures["present_alone_bytes"] > figures["present_crowd_bytes"] > 0
    assert figures["channel_bytes"] > figures["subscription_bytes"] > 0
    assert figures["subscribe_us"] < figures["present_join_us"]


def test_all_clients_of_a_process_are_cut_off_and_come_back(tmp_path):
    with Valkey(machine.LOAD_CORE) as valkey:
        bench = Bench(valkey, [""], str(tmp_path / "none.sqlite3"))
        found = comeback.measure(bench, BY_NAME["ours-daphne-redis"], "there", 5)
    # Each left its group, and has joined it again; presence is told of both.
    assert all(found[name] >= 1 for name in ("subscribe", "unsubscribe", "evalsha", "tries"))
    known = json.loads(comeback.RESULTS.read_text())["figures"]
    assert known.keys() == set(comeback.SERVERS)
    for routes in known.values():
        assert routes.keys() == set(comeback.ROUTES.values())
        assert all(figures.keys() == found.keys() for figures in routes.values())


def test_what_was_not_measured_is_said():
    with pytest.raises(LookupError, match="cpu_us@10000 of ours-daphne-redis in curve-members"):
        unit.costs("daphne", Results())
    for name in ("unit_costs", "profiles", "ends"):
        assert scale.BLOCKS[name](Results()) == scale.NOT_YET


# The command


def test_the_command_of_the_page_says_what_a_site_needs(capsys):
    [line] = named("docs/scale.md")["sizing"].splitlines()
    sizing.main(line.removeprefix("$ python -m benchmarks.sizing ").split())
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert int(told["processes"]) >= 5


def test_a_simulation_is_told_below_the_plan(capsys):
    sizing.main(["--connections", "1000", "--rate", "100", "--processes", "3", "--simulate"])
    assert "simulated with 1 Redis: messages" in capsys.readouterr().out


def test_with_presence_the_command_says_what_that_adds(capsys):
    sizing.main(["--connections", "1000"])
    assert "presence" not in capsys.readouterr().out
    sizing.main(["--connections", "1000", "--presence"])
    assert "with presence: renewals / s" in capsys.readouterr().out


def test_a_profile_is_of_a_million_and_shrinks_with_the_site():
    options = sizing.parse(["--profile", "chat", "--connections", "60000"])
    assert options.rate == pytest.approx(1000) and options.members == 50
    assert sizing.parse(["--profile", "everybody", "--connections", "10"]).members == 10


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "many"])
def test_what_is_no_amount_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        sizing.parse(["--rate", text])
    assert "--rate" in capsys.readouterr().err
