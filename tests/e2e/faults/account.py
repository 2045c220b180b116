"""Which messages were missed, repeated or reordered, and whether that was reported."""

import json
from collections import Counter

KINDS = "layer_lost", "layer_back", "gap", "publish_failed"


def events(lines):
    """What a process told its consumer chain: (time, kind, data)."""
    for line in lines:
        if line.startswith("EVENT "):
            _, when, event = line.split(" ", 2)
            event = json.loads(event)
            # Of a group with a history other things are promised: kept.py accounts for it.
            if not event["data"].get("group", "").startswith("room:"):
                yield float(when), event["type"], event["data"]


class Account:
    """
    Of all messages that ``talkers`` sent to a group of ``clients``. ``said`` is, by server,
    what it logged meanwhile; of what the servers in ``gone`` had taken, any tail may be lost.
    """

    def __init__(self, name, clients, talkers, said, gone, kept):
        self.name = name
        self.kept = kept
        self.clients = clients
        self.events = {server: list(events(lines)) for server, lines in said.items()}
        self.sent = sum(len(one.sent) for one in talkers)
        self.received = self.repeated = self.reordered = self.uneven = 0
        self.lost = self.untold = self.overtold = 0
        alive = [client for client in clients if client.server not in gone]
        for server in {client.server for client in alive}:
            here = [client for client in alive if client.server is server]
            lost = []
            for talker in talkers:
                heard = [client.heard[talker.number] for client in here if client is not talker]
                lost += self._compare(talker, heard, whole=talker.server not in gone)
            self._look_for_words(server, lost)
        self.closed = Counter(client.closed for client in alive if client.closed is not None)
        self.echo = max((max(client.echoes) for client in alive if client.echoes), default=0.0)

    def _compare(self, talker, heard, whole):
        """What one process should have received from ``talker`` and did not: (server, time)."""
        self.received += sum(map(len, heard))
        self.repeated += sum(len(one) - len(set(one)) for one in heard)
        self.reordered += sum(one != sorted(one) for one in heard)
        arrived = set().union(*heard)
        # What reached a process reached all of its clients.
        self.uneven += sum(len(arrived - set(one)) for one in heard)
        expected = len(talker.sent) if whole else max(arrived, default=-1) + 1
        missing = set(range(expected)) - arrived
        return [(talker.server, talker.sent[number]) for number in missing]

    def _look_for_words(self, server, lost):
        """The losses that neither this process nor the publishing one reported."""
        self.lost += len(lost)
        gaps = [(when, data["missed"]) for when, kind, data in self.events[server] if kind == "gap"]
        # One of an unknown number counts for what was sent before it.
        last = max((when for when, missed in gaps if missed is None), default=0.0)
        left = Counter(publisher for publisher, sent in lost if sent > last)
        for publisher in left:
            left[publisher] -= self.failed(publisher)
        counted = sum(missed for _, missed in gaps if missed is not None)
        self.untold += max(0, sum(max(0, number) for number in left.values()) - counted)
        self.overtold += max(0, counted - len(lost))

    def failed(self, server):
        """How many messages of a process failed and were reported."""
        return sum(
            data["messages"] for _, kind, data in self.events[server] if kind == "publish_failed"
        )

    def times(self, kind, server):
        return [when for when, one, _ in self.events[server] if one == kind]

    def count(self, kind):
        """How often, in each process."""
        return [len(self.times(kind, server)) for server in self.events]

    def flaws(self):
        """What no fault may cause."""
        names = "repeated", "reordered", "uneven", "untold", "overtold", "closed"
        flaws = {name: getattr(self, name) for name in names if getattr(self, name)}
        return flaws | ({"kept": self.kept.flaws()} if self.kept.flaws() else {})

    def __str__(self):
        told = ", ".join(
            f"{kind} {'+'.join(map(str, self.count(kind)))}"
            for kind in KINDS
            if any(self.count(kind))
        )
        return (
            f"{self.name}: {len(self.clients)} clients; sent {self.sent}, received"
            f" {self.received}, lost {self.lost} (untold {self.untold}), repeated"
            f" {self.repeated}, reordered {self.reordered}, closed {self.closed.total()};"
            f" slowest echo {self.echo * 1000:.0f} ms; {told or 'no event'}; {self.kept}"
        )
