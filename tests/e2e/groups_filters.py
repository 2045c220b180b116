"""Commands of clients about groups."""

from filtered_websocket import NotAllowed, WebSocketMessageFilter


class Commands(WebSocketMessageFilter):
    """``["join", name]``, ``["leave", name]``, ``["publish", name]`` and ``["groups", ""]``."""

    @classmethod
    async def filter(cls, web_socket_instance, message):
        verb, name = message
        answer = None
        try:
            if verb == "join":
                answer = await web_socket_instance.join(name)
            elif verb == "leave":
                answer = await web_socket_instance.leave(name)
            elif verb == "publish":
                answer = await web_socket_instance.is_allowed("publish", name)
            else:
                answer = sorted(web_socket_instance.groups - {web_socket_instance.home})
        except NotAllowed as refusal:
            answer = refusal.reason
        web_socket_instance.push({"answer": answer})
