"""A backend that is told what happens: it notes what comes, and answers as a test wishes."""

import http.server
import json
import threading

from ..waiting import LIMIT


class Receiver:
    """``with``; ``statuses`` are what it answers first, then 200."""

    def __init__(self, *statuses):
        self._statuses = list(statuses)
        self._came = threading.Condition()
        #: Headers and body of each request.
        self.requests = []

    def __enter__(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with receiver._came:
                    receiver.requests.append((dict(self.headers), body.decode()))
                    status = receiver._statuses.pop(0) if receiver._statuses else 200
                    receiver._came.notify_all()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                """Silent."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def events(self):
        """All that was told, each attempt."""
        return [event for _, body in self.requests for event in json.loads(body)["events"]]

    def told(self, count):
        """What was told, once there is so much of it."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.events) >= count, LIMIT), self.events
            return self.events
