"""What the methods do that order and ask; those that publish are in ``publishing``."""

import json
from base64 import b64encode
from contextvars import copy_context
from typing import Any

from ..auth.tenants import personal_group
from ..exceptions import check_close
from ..groups import PERSONAL_PREFIX, channel_name
from ..history import Page, Publication, forget_history
from ..history import history as read_history
from ..hub.registry import active_hub
from ..layer.envelope import INFO
from ..presence import Info
from ..presence import presence as read_presence
from ..presence import presence_stats as read_stats
from ..publish import is_shared
from .control import change, close, count_members, describe_processes, set_expiry
from .requests import ApiError, Request, group_of, keeping_group

#: How a connection is closed where a request does not say: the client stays away.
FORCED = (3503, "force disconnect")
#: How one is closed that the backend calls expired: the client comes back with a new token.
EXPIRED = (3005, "expired")
#: The end of the year 9999, as Unix time.
LATEST = 253_402_300_799
UNANSWERED = "the channel layer (Redis) does not answer"

Result = dict[str, Any]


def _who(request: Request) -> tuple[str, str]:
    """The user and the connection that an order is about."""
    request.refuse("session")
    user, client = request.text("user"), request.text("client")
    if not (user or client):
        raise ApiError(107, "'user' is missing")
    return user, client


def _ordered(is_sent: bool) -> Result:
    if not is_sent:
        raise ApiError(100, "the channel layer (Redis) has not taken the order")
    return {}


def _change(kind: str, request: Request) -> Result:
    user, client = _who(request)
    group = group_of(request.needed("channel"))
    try:
        return _ordered(change(kind, user, group, client))
    except ValueError as error:
        raise ApiError(103, str(error)) from error


def subscribe(request: Request) -> Result:
    request.refuse("info", "b64info", "data", "b64data", "recover_since", "override", "expire_at")
    return _change("subscribe", request)


def unsubscribe(request: Request) -> Result:
    return _change("unsubscribe", request)


def disconnect(request: Request) -> Result:
    user, client = _who(request)
    how = request.part("disconnect") or request
    code, reason = how.number("code") or FORCED[0], how.text("reason")
    if code == FORCED[0]:
        reason = reason or FORCED[1]
    try:
        check_close(code, reason)
    except ValueError as error:
        raise ApiError(107, str(error)) from error
    return _ordered(close("user", user, code, reason, client, request.texts("whitelist")))


def refresh(request: Request) -> Result:
    user, client = _who(request)
    request.refuse("info")
    if request.flag("expired"):
        return _ordered(close("user", user, *EXPIRED, client))
    at = request.number("expire_at") or None
    if at is not None and not 0 < at <= LATEST:
        raise ApiError(107, f"'expire_at' is a Unix time in seconds, not {at}")
    return _ordered(set_expiry(user, client, at))


# What is kept


def presence(request: Request) -> Result:
    group = keeping_group(request.needed("channel"), "presence")
    return {"presence": {key: _client(key, info) for key, info in read_presence(group).items()}}


def _client(key: str, info: Info) -> Result:
    fields: Result = {"client": key, "user": info.user or ""}
    return fields if info.info is None else {**fields, "chan_info": info.info}


def presence_stats(request: Request) -> Result:
    stats = read_stats(keeping_group(request.needed("channel"), "presence"))
    return {"num_clients": stats.connections, "num_users": stats.users}


def history(request: Request) -> Result:
    group = keeping_group(request.needed("channel"), "history")
    limit = request.number("limit") or 0
    since = None
    if (position := request.part("since")) is not None:
        since = position.text("epoch"), position.number("offset") or 0
    page = _page(group, None if limit < 0 else limit, since, request.flag("reverse"))
    answer = {"offset": page.position.offset, "epoch": page.position.epoch}
    return {"publications": [_publication(one) for one in page.publications], **answer}


def _page(group: str, limit: int | None, since: tuple[str, int] | None, reverse: bool) -> Page:
    """What is kept of what is asked for: from the oldest one on where that is gone."""
    page = read_history(group, limit, since, reverse)
    if page.recovered or since is None:
        return page
    epoch, offset = since
    if epoch not in ("", page.position.epoch):
        raise ApiError(112, f"the history has another epoch now: {page.position.epoch!r}")
    if (offset > page.position.offset) == reverse:
        return read_history(group, limit, None, reverse)
    return page


def _publication(publication: Publication) -> Result:
    fields: Result = {"offset": publication.offset, **_data(publication)}
    if known := publication.item.meta.get(INFO):
        fields["info"] = json.loads(known)
    elif publication.sender:
        fields["info"] = {"client": publication.sender}
    return {**fields, "tags": publication.tags} if publication.tags else fields


def _data(publication: Publication) -> Result:
    if publication.kind == "b":
        # JSON has no bytes.
        return {"data": None, "b64data": b64encode(publication.data).decode()}
    text = publication.data.decode()
    return {"data": json.loads(text) if publication.kind == "j" else text}


def history_remove(request: Request) -> Result:
    forget_history(keeping_group(request.needed("channel"), "history"))
    return {}


# All processes


def channels(request: Request) -> Result:
    counted = {} if is_alone() else count_members(request.text("pattern") or "*")
    if counted is None:
        raise ApiError(100, UNANSWERED)
    own = {channel_name(group): count for group, count in counted.items() if _is_ours(group)}
    return {"channels": {name: {"num_clients": own[name]} for name in sorted(own)}}


def _is_ours(group: str) -> bool:
    """Whether it is no group of a user of another tenant."""
    if not group.startswith(PERSONAL_PREFIX):
        return True
    return group == personal_group(channel_name(group)[1:], copy_context())


def info(request: Request) -> Result:
    nodes = [] if is_alone() else describe_processes()
    if nodes is None:
        raise ApiError(100, UNANSWERED)
    return {"nodes": sorted(nodes, key=lambda node: str(node.get("name")))}


def is_alone() -> bool:
    """Whether nobody is connected to this process, and it reaches no other."""
    return active_hub() is None and not is_shared()
