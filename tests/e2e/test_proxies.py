"""The files of deploy/ that a proxy and Redis read, in the real programs."""

import asyncio
import contextlib
import getpass
import hashlib
import http.client
import os
import shutil
import ssl

import pytest
from redis import Redis

from ..snippets import ROOT
from ..waiting import LIMIT
from .certificates import write_pair
from .processes import Daphne, Process, Valkey, free_port
from .sockets import connect
from .test_nginx import AROUND, replaced
from .test_serving import hears

DEPLOY = ROOT / "deploy"
HOST = "example.com"
PASSWORD = "a password for tests"
CADDY = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With static files, and a certificate."""
    folder = tmp_path_factory.mktemp("deploy")
    (folder / "static").mkdir()
    (folder / "static" / "a.css").write_text("body {}")
    key, certificate = write_pair(folder)
    shutil.move(key, folder / "key.pem")
    shutil.move(certificate, folder / "fullchain.pem")
    return folder


@pytest.fixture(scope="module")
def redis(folder):
    """A Valkey as deploy/redis/ has it, with a user for the test."""
    port = free_port()
    users = replaced(
        (DEPLOY / "redis/users.acl").read_text(),
        password=(">PASSWORD", "#" + hashlib.sha256(PASSWORD.encode()).hexdigest()),
    )
    (folder / "users.acl").write_text(users + "user looks on nopass +pubsub +config|get\n")
    config = replaced(
        (DEPLOY / "redis/redis.conf").read_text(),
        port=("port 6379", f"port {port}"),
        users=("/etc/redis/users.acl", str(folder / "users.acl")),
    )
    (folder / "redis.conf").write_text(config)
    server = Valkey(port, "--include", str(folder / "redis.conf"))
    yield server
    server.stop()


def asks(redis, *command):
    url = f"redis://looks:any@127.0.0.1:{redis.port}/0"
    with Redis.from_url(url, decode_responses=True) as client:
        return client.execute_command(*command)


@pytest.fixture(scope="module")
def site(database, redis):
    """Two processes behind a proxy."""
    env = {
        **database,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.deploy_settings",
        "REDIS_URL": f"redis://live:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{redis.port}/0",
    }
    servers = [Daphne(env=env) for _ in range(2)]
    yield [server.port for server in servers]
    for server in servers:
        server.stop()


def nginx(folder, ports, plain, port):
    config = replaced(
        (DEPLOY / "nginx/mysite.conf").read_text(),
        plain=("listen 80;", f"listen 127.0.0.1:{plain};"),
        port=("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        first=("127.0.0.1:9001", f"127.0.0.1:{ports[0]}"),
        second=("127.0.0.1:9002", f"127.0.0.1:{ports[1]}"),
        static=("/srv/mysite/static/", f"{folder}/static/"),
        certificate=("/etc/ssl/mysite/fullchain.pem", f"{folder}/fullchain.pem"),
        key=("/etc/ssl/mysite/key.pem", f"{folder}/key.pem"),
    )
    return start_nginx(folder, config, port)


def start_nginx(folder, config, port):
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("no nginx on this machine: apt-get install nginx-light")
    own = folder / f"nginx-{port}"
    own.mkdir()
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (own / "nginx.conf").write_text(AROUND.format(site=config, user=user))
    return Process([program, "-p", str(own), "-c", "nginx.conf", "-e", "stderr"])


def caddy(folder, ports, plain, port):
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("no Caddy on this machine: apt-get install caddy")
    secrets = f"\ttls {folder}/fullchain.pem {folder}/key.pem\n\tbind 127.0.0.1"
    config = replaced(
        (DEPLOY / "Caddyfile").read_text(),
        site=(f"{HOST} {{", f"{HOST}:{port} {{\n{secrets}"),
        ports=("127.0.0.1:9001 127.0.0.1:9002", " ".join(f"127.0.0.1:{one}" for one in ports)),
        static=("/srv/mysite/static", f"{folder}/static"),
    )
    path = folder / f"Caddyfile-{port}"
    path.write_text(CADDY + config)
    # What it keeps is not this user's.
    env = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return Process([program, "run", "--config", str(path), "--adapter", "caddyfile"], env=env)


PROXIES = {"nginx": nginx, "caddy": caddy}


class Proxy:
    def __init__(self, plain, port):
        self.plain, self.port = plain, port
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    def connect(self, path="/"):
        """As a page of the site does."""
        where = {"host": "127.0.0.1", "port": self.port, "ssl": self.tls}
        origin = f"https://{HOST}:{self.port}"
        return connect(f"wss://{HOST}:{self.port}{path}", origin=origin, **where)

    def get(self, path, *, plain=False):
        if plain:
            link = http.client.HTTPConnection("127.0.0.1", self.plain, timeout=LIMIT)
        else:
            link = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=LIMIT, context=self.tls
            )
        with contextlib.closing(link):
            # As it is: http.client would not send a path like "//".
            link.putrequest("GET", path, skip_host=True)
            link.putheader("Host", f"{HOST}:{self.port}")
            link.endheaders()
            answer = link.getresponse()
            return answer.status, answer.headers, answer.read().decode()


@contextlib.contextmanager
def running(kind, folder, ports):
    plain, port = free_port(), free_port()
    process = PROXIES[kind](folder, ports, plain, port)
    try:
        process.listens_on(port)
        yield Proxy(plain, port)
    finally:
        process.stop()


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request, folder, site):
    with running(request.param, folder, site) as proxy:
        proxy.kind = request.param
        yield proxy


async def test_sockets_of_pages_on_two_processes_hear_each_other(proxy, redis):
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(proxy.connect()) for _ in range(6)]
        groups = await asyncio.to_thread(asks, redis, "PUBSUB", "CHANNELS", "asgi__group__fws.*")
        listening = await asyncio.to_thread(asks, redis, "PUBSUB", "NUMSUB", *groups)
        # A process without connections listens to nothing.
        assert max(listening[1::2]) == 2
        await sockets[0].send("heard")
        for socket in sockets[1:]:
            assert await hears(socket, 1) == ["heard"]


def test_static_files_and_pages_are_served_and_health_is_nobodys_business(proxy):
    status, headers, text = proxy.get("/static/a.css")
    assert status == 200 and headers["Content-Type"].startswith("text/css") and text == "body {}"
    status, headers, page = proxy.get("/")
    assert status == 200 and 'data-websocket-path="/"' in page
    assert proxy.get("/health/ready")[0] == 404
    for path in ("//other/", "/;x"):
        assert proxy.get(path)[0] == 400
    if proxy.kind == "nginx":
        status, headers, _ = proxy.get("/a?b", plain=True)
        assert status == 308 and headers["Location"] == f"https://{HOST}/a?b"


@pytest.mark.parametrize("kind", PROXIES)
async def test_where_one_process_refuses_connections_the_other_serves(kind, folder, site):
    with running(kind, folder, [site[0], free_port()]) as proxy:
        for _ in range(4):
            async with proxy.connect() as ann, proxy.connect() as bob:
                await ann.send("heard")
                assert await hears(bob, 1) == ["heard"]


async def test_below_a_prefix_pages_and_sockets_work(folder, database):
    settings = {"DJANGO_SETTINGS_MODULE": "tests.e2e.site_settings", "TEST_SCRIPT_NAME": "/app"}
    server = await asyncio.to_thread(Daphne, env={**database, **settings})
    port = free_port()
    inside = (DEPLOY / "nginx/prefix.conf").read_text().replace("9001", str(server.port))
    maps = 'map $http_upgrade $connection_header { default upgrade; "" ""; }'
    process = start_nginx(folder, f"{maps} server {{ listen 127.0.0.1:{port}; {inside} }}", port)
    try:
        await asyncio.to_thread(process.listens_on, port)
        url = f"ws://127.0.0.1:{port}/app/"
        async with connect(url) as ann, connect(url) as bob:
            await ann.send("heard")
            assert await hears(bob, 1) == ["heard"]
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        with contextlib.closing(link):
            await asyncio.to_thread(link.request, "GET", "/app/")
            assert 'data-websocket-path="/app/"' in link.getresponse().read().decode()
    finally:
        await asyncio.to_thread(process.stop)
        await asyncio.to_thread(server.stop)


def test_redis_is_as_its_file_says(redis):
    def value(name):
        return asks(redis, "CONFIG", "GET", name)[name]

    assert value("client-output-buffer-limit").endswith("pubsub 67108864 16777216 10")
    assert value("maxmemory-policy") == "noeviction" and value("save") == ""
