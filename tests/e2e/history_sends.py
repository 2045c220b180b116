"""A send filter: clients need not get what they do not want."""

from filtered_websocket import Drop, WebSocketSendFilter


class Mute(WebSocketSendFilter):
    """After ``["mute", word]`` a client gets no text that begins so."""

    @classmethod
    def filter(cls, web_socket_instance, message):
        word = web_socket_instance.state.get("mute")
        if word is not None and message["text"].startswith(word):
            raise Drop
