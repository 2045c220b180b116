"""The metrics of one process: their names, what they mean, and where their values are."""

from typing import Literal, NamedTuple

from .. import __version__
from ..conf import conf
from ..observe import loop_lag, outages, round_trips, traffic
from ..threads.blocking import abandoned, busy
from .readings import (
    Read,
    close_codes,
    connections,
    filter_ends,
    filter_times,
    group_queue,
    groups,
    layer_up,
    number,
    outcomes,
    publish_queue,
    times,
    total,
    total_of,
)

#: What several processes' values of a gauge are together, as prometheus-client calls it.
Merge = Literal["livesum", "livemin", "livemax"]


class Family(NamedTuple):
    """A metric. Counters end with ``_total``."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    read: Read
    labels: tuple[str, ...] = ()
    merge: Merge = "livesum"


def counter(name: str, help: str, read: Read, *labels: str) -> Family:
    return Family("counter", name, help, read, labels)


def gauge(name: str, help: str, read: Read, *labels: str, merge: Merge = "livesum") -> Family:
    return Family("gauge", name, help, read, labels, merge)


def histogram(name: str, help: str, read: Read, *labels: str) -> Family:
    return Family("histogram", name, help, read, labels)


OF_FILTER = ("route", "chain", "filter")

CONNECTIONS = (
    gauge(
        "fws_info",
        "1, with the version of the package.",
        lambda: [((__version__,), 1.0)],
        "version",
        merge="livemax",
    ),
    gauge("fws_connections", "Open WebSocket connections.", connections, "route", "server"),
    gauge("fws_groups", "Groups with members in the process.", number(groups)),
    counter("fws_handshakes_total", "Handshakes, by what became of them.", outcomes, "outcome"),
    counter(
        "fws_disconnections_total",
        "Connections that have ended, by close code, whoever closed them.",
        close_codes,
        "code",
    ),
    counter(
        "fws_not_allowed_total",
        "Requests of connections that rules, permissions or tokens did not allow.",
        total("not_allowed"),
    ),
)

MESSAGES = (
    counter("fws_received_frames_total", "Messages of clients.", number(lambda: traffic.frames_in)),
    counter(
        "fws_received_bytes_total",
        "Bytes of messages of clients.",
        number(lambda: traffic.bytes_in),
    ),
    counter(
        "fws_sent_frames_total",
        "Messages that were given to connections to send.",
        number(lambda: traffic.pushed + traffic.delivered),
    ),
    counter(
        "fws_sent_bytes_total",
        "Bytes of messages that were given to connections to send.",
        number(lambda: traffic.bytes_out),
    ),
    counter(
        "fws_deliveries_total",
        "Messages to groups, once for each member in the process.",
        number(lambda: traffic.delivered),
    ),
    counter(
        "fws_dropped_messages_total",
        "Messages that had no room: in the outbox of a slow reader, or before a group or consumer"
        " chain; or that could not be forwarded to consumers of Channels.",
        total_of(
            outbox="dropped",
            group="group_dropped",
            consumer="event_dropped",
            forward="not_forwarded",
        ),
        "queue",
    ),
    counter(
        "fws_unencodable_messages_total",
        "Messages that are not JSON, to clients that speak JSON.",
        total("not_json"),
    ),
)

FILTERS = (
    histogram(
        "fws_filter_seconds",
        "How long runs of a filter took; their count is that of its runs.",
        filter_times,
        *OF_FILTER,
    ),
    counter(
        "fws_filter_errors_total",
        "Runs of a filter that raised an error.",
        filter_ends("errors"),
        *OF_FILTER,
    ),
    counter(
        "fws_filter_drops_total",
        "Runs of a filter that raised Drop.",
        filter_ends("drops"),
        *OF_FILTER,
    ),
    counter(
        "fws_filter_closes_total",
        "Runs of a filter that raised Close.",
        filter_ends("closes"),
        *OF_FILTER,
    ),
    gauge(
        "fws_group_queue_messages",
        "Messages that wait for group, send and consumer chains that await.",
        group_queue("count"),
    ),
    gauge(
        "fws_group_queue_bytes",
        "About the bytes of messages that wait for group, send and consumer chains that await.",
        group_queue("bytes"),
    ),
    gauge(
        "fws_blocking_threads",
        "Threads that may run blocking filters at once.",
        number(lambda: conf.BLOCKING_THREADS),
    ),
    gauge(
        "fws_blocking_threads_in_use",
        "Threads that run a blocking filter now.",
        number(lambda: len(busy)),
    ),
    gauge(
        "fws_blocking_threads_abandoned",
        "Threads that run a blocking filter of a connection that has ended.",
        number(lambda: len(abandoned)),
    ),
)

LAYER = (
    gauge(
        "fws_publish_queue_messages",
        "Messages that wait for the channel layer.",
        publish_queue("count"),
    ),
    gauge(
        "fws_publish_queue_bytes",
        "About the bytes of messages that wait for the channel layer.",
        publish_queue("bytes"),
    ),
    counter(
        "fws_publish_failures_total",
        "Messages that were queued to be published, and could not be sent.",
        total("publish_failed"),
    ),
    gauge(
        "fws_layer_up",
        "1 while the channel layer can be reached, 0 while it is lost.",
        layer_up,
        merge="livemin",
    ),
    histogram(
        "fws_layer_round_trip_seconds",
        "How long a message of the process to itself took through the channel layer.",
        times(round_trips),
    ),
    counter(
        "fws_layer_outages_total", "How often the channel layer was lost.", total("layer_lost")
    ),
    histogram(
        "fws_layer_outage_seconds",
        "How long the channel layer was lost, of outages that are over.",
        times(outages),
    ),
    counter(
        "fws_gaps_total",
        "How often messages of a group were missed and not fetched later.",
        total("gap"),
    ),
    counter(
        "fws_missed_messages_total",
        "Messages of groups that were missed, where their number is known.",
        total("missed"),
    ),
    counter(
        "fws_duplicate_messages_total",
        "Messages of groups that came twice, and were left out.",
        total("duplicate"),
    ),
    counter(
        "fws_bad_envelopes_total",
        "Messages on the channel layer that this package did not send.",
        total("bad_envelope"),
    ),
    counter(
        "fws_recoveries_total",
        "Clients that came back with a position: recovered, or lost where not all is kept.",
        total_of(recovered="recovered", lost="not_recovered"),
        "outcome",
    ),
    counter(
        "fws_recovered_messages_total",
        "Messages that were sent to clients that came back with a position.",
        total("recovered_messages"),
    ),
    counter(
        "fws_history_failures_total",
        "How often a history could not be read.",
        total("history_failed"),
    ),
    counter(
        "fws_history_losses_total",
        "How often a process missed messages that the history no longer had.",
        total("history_lost"),
    ),
    counter(
        "fws_presence_renewals_total",
        "How often a process renewed its presence in all groups.",
        total_of(ok="presence_renewed", failed="presence_failed"),
        "outcome",
    ),
)

LOOP = (
    histogram(
        "fws_event_loop_lag_seconds",
        "How late the event loop called what was due; looked at twice a second.",
        times(loop_lag),
    ),
    counter(
        "fws_event_loop_blocked_total",
        "How often the event loop was blocked for more than a second.",
        total("blocked"),
    ),
    counter(
        "fws_task_failures_total",
        "How often a task of the package failed and was started again.",
        total("task_failed"),
    ),
)

FAMILIES = (*CONNECTIONS, *MESSAGES, *FILTERS, *LAYER, *LOOP)
