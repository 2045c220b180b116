"""The documentation's configuration of nginx, run in the real nginx."""

import asyncio
import getpass
import http.client
import http.cookies
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import django.contrib.admin
import pytest

from ..snippets import PAGES, named
from .processes import ROOT, Daphne, Process, free_port
from .sockets import connect
from .test_serving import hears

PASSWORD = "a password for tests"
AROUND = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    types {{ text/css css; }}
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {site}
}}
"""
SITES = {
    page.name: code
    for page in PAGES
    for name, code in named(page.relative_to(ROOT)).items()
    if name.startswith("nginx")
}


def replaced(text, **parts):
    for old, new in parts.values():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def site(database):
    """The example as in production, on daphne."""
    secret = {"DJANGO_DEBUG": "0", "DJANGO_SECRET_KEY": "x" * 50}
    env = {**database, **secret, "DJANGO_ALLOWED_HOSTS": "127.0.0.1"}
    names = {"USERNAME": "behind-nginx", "EMAIL": "a@example.com", "PASSWORD": PASSWORD}
    superuser = {f"DJANGO_SUPERUSER_{name}": value for name, value in names.items()}
    subprocess.run(
        [sys.executable, "manage.py", "createsuperuser", "--noinput", "-v", "0"],
        env={**os.environ, **env, **superuser},
        cwd=ROOT,
        check=True,
    )
    server = Daphne(env=env)
    yield server
    server.stop()


def nginx():
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        pytest.skip("no nginx on this machine: apt-get install nginx-light")
    return found


@pytest.fixture(scope="module", params=SITES)
def proxy(request, site, tmp_path_factory):
    program = nginx()
    folder = tmp_path_factory.mktemp("nginx")
    static = folder / "static"
    static.mkdir()
    # As collectstatic would.
    shutil.copytree(Path(django.contrib.admin.__file__).parent / "static/admin", static / "admin")
    port = free_port()
    config = replaced(
        SITES[request.param],
        listen=("listen 80;", f"listen 127.0.0.1:{port};"),
        files=("/srv/site/static/", f"{static}/"),
        site=("127.0.0.1:9001", f"127.0.0.1:{site.port}"),
    )
    # Its workers are nobody's otherwise, and may not read this folder.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND.format(site=config, user=user))
    command = [program, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    process = Process(command)
    try:
        process.listens_on(port)
        yield SimpleNamespace(port=port, process=process)
    finally:
        process.stop()


class Browser:
    """Keeps cookies, and follows no redirect."""

    def __init__(self, port):
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.cookies = http.cookies.SimpleCookie()

    @property
    def headers(self):
        cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in self.cookies.items())
        return {"Cookie": cookie, "Origin": self.origin, "Referer": self.origin}

    def ask(self, method, path, form=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = self.headers
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.request(method, path, form and urlencode(form), headers)
            answer = connection.getresponse()
            for value in answer.headers.get_all("Set-Cookie", ()):
                self.cookies.load(value)
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def log_in(self, path):
        status, _, page = self.ask("GET", path)
        assert status == 200
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
        form = {"username": "behind-nginx", "password": PASSWORD, "csrfmiddlewaretoken": token}
        return self.ask("POST", path, form)


def test_every_configuration_is_run():
    # A part of a file says that it is one.
    whole = re.compile(r"^(?!<!-- not run).*\n```nginx\n", re.MULTILINE)
    blocks = [code for page in PAGES for code in whole.findall(page.read_text())]
    # What is in deploy/ is run by test_proxies.py.
    assert len(blocks) - len(list((ROOT / "deploy/nginx").iterdir())) == len(SITES) > 0


def test_nginx_takes_the_part_for_metrics(tmp_path):
    [part] = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs/metrics.md").read_text(), re.DOTALL)
    (tmp_path / "nginx.conf").write_text(AROUND.format(user="", site=f"server {{\n{part}}}"))
    command = [nginx(), "-t", "-e", "stderr", "-p", tmp_path, "-c", "nginx.conf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("query", ["", "?next=/admin/", "?next=https://x.example/", "?a=1;b=//"])
def test_somebody_can_log_in(proxy, query):
    browser = Browser(proxy.port)
    status, headers, _ = browser.log_in(f"/admin/login/{query}")
    assert status == 302, proxy.process.output
    # Django leads nobody to another site.
    assert headers["Location"] in ("/accounts/profile/", "/admin/")
    status, _, page = browser.ask("GET", "/admin/")
    assert status == 200 and "behind-nginx" in page


def test_a_static_file_is_served(proxy):
    status, headers, text = Browser(proxy.port).ask("GET", "/static/admin/css/base.css?v=1;2")
    assert status == 200 and headers["Content-Type"] == "text/css" and "body" in text


async def test_sockets_of_pages_hear_each_other(proxy):
    browser = Browser(proxy.port)
    await asyncio.to_thread(browser.log_in, "/admin/login/")
    url = f"ws://127.0.0.1:{proxy.port}/?next=https://x.example/;"
    page = {"origin": browser.origin, "additional_headers": {"Cookie": browser.headers["Cookie"]}}
    async with connect(url, **page) as ann, connect(url, **page) as bob:
        await ann.send("heard")
        assert await hears(bob, 1) == ["heard"]


@pytest.mark.parametrize("path", ["//other/", "/rooms//x/", "/;x", "/rooms/a;b/", "//x/?a=1"])
def test_a_path_that_daphne_would_change_is_refused(proxy, path):
    assert Browser(proxy.port).ask("GET", path)[0] == 400
