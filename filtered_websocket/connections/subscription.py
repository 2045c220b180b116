"""One connection's membership of one group, where the route has group rules."""

from typing import Any

from ..groups import GroupRule


class Subscription:
    """What a connection's membership of a group is made of; ends when it leaves the group."""

    __slots__ = (
        "captured",
        "data",
        "group",
        "info",
        "position",
        "reply",
        "rule",
        "trusted",
    )

    def __init__(
        self,
        group: str,
        captured: dict[str, Any],
        rule: GroupRule | None,
        data: Any = None,
        *,
        trusted: bool = False,
    ) -> None:
        self.group = group
        #: What the rule's pattern has captured from the name.
        self.captured = captured
        #: The first rule that matches the name; None if none does.
        self.rule = rule
        #: What the client sent along, or None. Of any size and type.
        self.data = data
        #: Shown in presence.
        self.info: Any = None
        #: Told to the joiner, by protocols that have an answer.
        self.reply: Any = None
        #: Of the last publication it was sent, as (epoch, offset), or None.
        self.position: tuple[str, int] | None = None
        #: Whether the site joined it, so that its rule was not asked, and is not asked again.
        self.trusted = trusted

    def __repr__(self) -> str:
        return f"<Subscription {self.group!r:.80}>"
