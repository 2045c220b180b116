"""The groups that clients of the protocol may join: rooms, and who types in them."""

from filtered_websocket.groups import History, group

grouppatterns = [
    group(
        "room:<str:name>",
        publish=True,
        presence=True,
        join_leave=True,
        history=History(size=200, ttl=24 * 3600),
    ),
    group("typing:<str:name>", publish=True),
]
