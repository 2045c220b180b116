"""
Whether what is installed runs, asked by a Python that has nothing else: a new project with the
README's lines, its checks, and a server under which two clients hear each other.
"""

import base64
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
SNIPPETS = dict(re.findall(r"<!-- (.+?) -->\n```\w+\n(.*?)```", README, re.DOTALL))
LIMIT = 60


def run(*arguments, given=None, **options):
    command = [sys.executable, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def append(path, code):
    path.write_text(path.read_text() + "\n" + code)


class Client:
    """Just enough of RFC 6455 for short texts."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            "\r\n".encode()
        )
        self.file = self.socket.makefile("rb")
        head = b"".join(iter(self.file.readline, b"\r\n"))
        assert head.startswith(b"HTTP/1.1 101 "), head

    def send(self, text):
        # The mask is four zeros.
        self.socket.sendall(b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text.encode())

    def receive(self):
        """The next text, or what closes the connection: its code."""
        kind, length = self.file.read(2)
        body = self.file.read(length)
        return struct.unpack("!H", body[:2])[0] if kind == 0x88 else body.decode()


def serve(folder, server, port):
    commands = {
        "daphne": ["daphne", "-b", "127.0.0.1", "-p", str(port)],
        "uvicorn": ["uvicorn", "--ws", "websockets-sansio", "--port", str(port)],
    }
    command = [sys.executable, "-m", *commands[server], "mysite.asgi:application"]
    process = subprocess.Popen(command, cwd=folder)
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return process
    raise AssertionError(f"{server} never listened: exit status {process.returncode}")


def main(server):
    print("  ", metadata.version("filtered-websocket"), "with Django", metadata.version("django"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a folder where the source is not: it would be taken first.
        pipe = ("filtered_websocket.pipe", "filtered_websocket.filters.stdout_messages")
        assert run("-m", *pipe, given="a\n", cwd=folder).endswith(" => a\na\n")
        run("-m", "django", "startproject", "mysite", ".", cwd=folder)
        append(folder / "mysite/settings.py", SNIPPETS["settings.py"])
        append(folder / "mysite/asgi.py", SNIPPETS["end of asgi.py"])
        append(folder / "mysite/urls.py", SNIPPETS["end of urls.py"])
        assert "no issues" in run("manage.py", "check", cwd=folder)
        run("manage.py", "migrate", "-v", "0", cwd=folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = serve(folder, server, port)
        try:
            ann, bob = Client(port), Client(port)
            ann.send("heard")
            assert bob.receive() == "heard"
            process.send_signal(signal.SIGTERM)
            assert bob.receive() == 4200
            process.wait(LIMIT)
        finally:
            process.kill()
            process.wait()
    print("   runs on", server)


if __name__ == "__main__":
    main(*sys.argv[1:])
