"""People with cookies and keys, for tests of who may connect."""

import asyncio
import http.cookiejar
import json
import urllib.parse
import urllib.request
import uuid

from ..waiting import LIMIT
from .sockets import connect


class Visitor:
    """A user of the site's pages, with cookies."""

    def __init__(self, server):
        self.server = server
        self.jar = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def _open(self, path, data=None):
        headers = {"Referer": self.server.http("/")}
        with self._opener.open(
            urllib.request.Request(self.server.http(path), data, headers), timeout=LIMIT
        ) as answer:
            return answer.read().decode()

    async def get(self, path):
        return await asyncio.to_thread(self._open, path)

    async def post(self, path, **fields):
        token = next((c.value for c in self.jar if c.name == "csrftoken"), "")
        data = urllib.parse.urlencode({"csrfmiddlewaretoken": token, **fields}).encode()
        return await asyncio.to_thread(self._open, path, data)

    async def do(self, action, **arguments):
        body = json.dumps(arguments).encode()
        return json.loads(await asyncio.to_thread(self._open, f"/do/{action}/", body))

    async def log_in(self, name):
        await self.get("/admin/login/")
        await self.post("/admin/login/?next=/admin/", username=name, password=name)
        assert self.cookie

    @property
    def cookie(self):
        return next((c.value for c in self.jar if c.name == "sessionid"), "")


class Case:
    """A user with a token and a session, and what is needed to end them."""

    @classmethod
    async def make(cls, server, *, seconds=None):
        case = cls()
        case.name = f"u{uuid.uuid4().hex[:12]}"
        case.visitor = Visitor(server)
        case.user = (await case.visitor.do("make_user", name=case.name))["user"]
        made = await case.visitor.do("make_token", user=case.user, seconds=seconds)
        case.token, case.key = made["token"], made["key"]
        await case.visitor.log_in(case.name)
        return case

    def by_session(self, server):
        return connect(
            server.ws(), additional_headers={"Cookie": f"sessionid={self.visitor.cookie}"}
        )

    def by_header(self, server):
        return connect(server.ws(), additional_headers={"Authorization": f"Token {self.key}"})

    def by_bearer(self, server):
        return connect(server.ws(), additional_headers={"Authorization": f"Bearer {self.key}"})

    def by_subprotocol(self, server):
        return connect(server.ws(), subprotocols=["fws", f"fws.token.{self.key}"])

    def by_query(self, server):
        return connect(server.ws(f"/?token={self.key}"))

    async def ticket(self):
        return json.loads(await self.visitor.post("/ticket/"))["ticket"]
