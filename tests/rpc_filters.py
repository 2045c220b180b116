"""
A small protocol of tests: ``{"id": 1, "call": "add", "data": [1, 2]}`` is answered by
``{"id": 1, "answer": 3}``, or ``{"id": 1, "error": "..."}``. For routes whose codec is JSON.
"""

from filtered_websocket import Close, NotAllowed, WebSocketMessageFilter
from filtered_websocket.exceptions import FilterError, NoSuchMethod
from filtered_websocket.types import Call


class Rpc(WebSocketMessageFilter):
    @classmethod
    async def filter(cls, web_socket_instance, message):
        calls = web_socket_instance._view.calls_of(web_socket_instance)
        await calls.start(cls.reply(web_socket_instance, calls, message))

    @staticmethod
    async def reply(connection, calls, message):
        reply = {"id": message["id"]}
        try:
            reply["answer"] = await calls.answer(Call(message["call"], message.get("data")))
        except NoSuchMethod as error:
            reply["error"] = f"no method {error.method}"
        except NotAllowed:
            reply["error"] = "not allowed"
        except FilterError:
            reply["error"] = "it failed"
        except Close:
            return
        connection.push(reply)
