"""A line for every way that connections ended: how many so far."""

from collections import Counter

from filtered_websocket import WebSocketDisconnectFilter

ended = Counter()


class CountEnds(WebSocketDisconnectFilter):
    @classmethod
    def filter(cls, web_socket_instance):
        code = web_socket_instance.close_code
        ended[code] += 1
        print(f"ENDED {code}: {ended[code]}", flush=True)
