"""Handshakes and frames that no correct client sends: name -> (expected result, bytes)."""

import struct
from itertools import product

#: No 101, or no answer at all.
REFUSED = "refused"
#: Answered with 101, and the socket ended soon after the frames.
CLOSED = "closed"
#: Odd but allowed: served on.
SERVED = "served"
#: Never finished: our own server ends it in time; from daphne the client goes.
LATE = "late"

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
MASK = b"\x01\x02\x03\x04"


def request(line="GET / HTTP/1.1", *more, eol="\r\n", end=True, **changed):
    """A handshake; ``changed`` by header, in words_of_it, None to leave one out."""
    headers = HEADERS | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [line, *(f"{k}: {v}" for k, v in headers.items() if v is not None), *more]
    return (eol.join(lines) + (2 * eol if end else "")).encode("utf-8", "surrogateescape")


def frame(payload=b"", opcode=1, fin=True, rsv=0, mask=MASK, size=None, width=None):
    """``size`` is what it says it has, ``width`` the bytes that say so: 1, 2 or 8."""
    size = len(payload) if size is None else size
    width = width or (1 if size < 126 else 2 if size < 65_536 else 8)
    masked = 0x80 if mask else 0
    length = {
        1: lambda: bytes([masked | size]),
        2: lambda: struct.pack("!BH", masked | 126, size),
        8: lambda: struct.pack("!BQ", masked | 127, size),
    }[width]()
    if mask:
        times = len(payload) // 4 + 1
        key = int.from_bytes((mask * times)[: len(payload)])
        payload = (int.from_bytes(payload) ^ key).to_bytes(len(payload))
    return bytes([fin << 7 | rsv << 4 | opcode]) + length + (mask or b"") + payload


def fragments(*parts, opcode=1):
    """One message in this many frames."""
    last = len(parts) - 1
    return b"".join(
        frame(part, opcode if n == 0 else 0, fin=n == last) for n, part in enumerate(parts)
    )


def close(code, reason=b""):
    return frame(struct.pack("!H", code) + reason, 8)


BAD_UTF8 = {
    "lone continuation": b"\x80",
    "two continuations": b"\xbf\x80",
    "overlong slash": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "overlong in three": b"\xe0\x80\xaf",
    "overlong in four": b"\xf0\x80\x80\xaf",
    "overlong limit": b"\xf0\x8f\xbf\xbf",
    "high surrogate": b"\xed\xa0\x80",
    "low surrogate": b"\xed\xbf\xbf",
    "surrogate pair": b"\xed\xa0\xbd\xed\xb8\x80",
    "over U+10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "FE": b"\xfe",
    "FF": b"\xff\xff",
    "start, then text": b"\xe2\x82A",
    "start, then start": b"\xc3\xc3\xa9",
    "after good text": "grün ".encode() + b"\xe9",
    "truncated two": b"\xc3",
    "truncated three": b"\xe2\x82",
    "truncated four": b"\xf0\x9f\x92",
}


def bad_frames():
    for opcode in range(16):
        yield f"unmasked opcode {opcode}", frame(b"hi", opcode, mask=None)
    for rsv, opcode in product(range(1, 8), (1, 2, 8, 9)):
        yield f"RSV {rsv} on opcode {opcode}", frame(b"\x03\xe8", opcode, rsv=rsv)
    for opcode in (*range(3, 8), *range(11, 16)):
        yield f"opcode {opcode}", frame(b"x", opcode)
        yield f"opcode {opcode}, empty", frame(b"", opcode)
        yield f"opcode {opcode} inside a message", frame(b"a", fin=False) + frame(b"x", opcode)
    for opcode in (8, 9, 10):
        yield f"control {opcode} of 126 bytes", frame(b"x" * 126, opcode)
        yield f"control {opcode} of 70000 bytes", frame(b"x" * 70_000, opcode)
        yield f"control {opcode} with a long length", frame(b"xx", opcode, width=2)
        yield f"control {opcode} in fragments", frame(b"\x03\xe8", opcode, fin=False)
    for opcode, (size, width) in product((1, 2), ((0, 2), (125, 2), (0, 8), (126, 8), (65_535, 8))):
        yield (
            f"{size} bytes said in {width}, opcode {opcode}",
            frame(b"x" * size, opcode, width=width),
        )
    for size in (2**63, 2**64 - 1, 2**63 + 5):
        yield f"a frame of {size}", frame(b"x", 2, size=size, width=8)
    for fin in (True, False):
        yield f"a continuation of nothing, fin {fin}", frame(b"x", 0, fin=fin)
    yield "a continuation of a whole message", frame(b"a") + frame(b"x", 0)
    for first, second in product((1, 2), (1, 2)):
        name = f"a message {second} inside a message {first}"
        yield name, frame(b"a", first, fin=False) + frame(b"b", second)
    for name, text in BAD_UTF8.items():
        yield f"{name}", frame(text)
        yield f"{name}, byte by byte", fragments(*(bytes([byte]) for byte in text))
        yield f"{name}, after an empty fragment", fragments(b"", text, b"")
    for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535):
        yield f"close {code}", close(code)
    yield "close of one byte", frame(b"\x03", 8)
    yield "close with a bad reason", close(1000, b"\xc0\xaf")
    yield "close with a truncated reason", close(1000, b"\xe2\x82")
    yield "close with a long reason", close(1000, b"x" * 124)
    yield "256 KiB and a byte", frame(b"x" * 262_145, 2)
    yield "garbage", b"\xff" * 300
    yield "a second request", request()
    yield "zeros", bytes(300)


def good_ends():
    for code in (1000, 1001, 1003, 1007, 1011, 3000, 3999, 4999):
        yield f"close {code}", close(code, b"bye")
    yield "close without a code", frame(b"", 8)
    yield "two closes", close(1000) + close(1001)
    yield "text after close", close(1000) + frame(b"late")
    yield "garbage after close", close(1000) + b"\xff" * 5000
    yield "close inside a message", frame(b"a", fin=False) + close(1000)


def odd_but_good():
    yield "empty text", frame()
    yield "empty binary", frame(b"", 2)
    yield "empty fragments", fragments(*[b""] * 50)
    yield "ping inside a message", frame(b"a", fin=False) + frame(b"p", 9) + frame(b"b", 0)
    yield "a pong that nobody asked for", frame(b"x" * 125, 10)
    yield "a mask of zeros", frame(b"text", mask=b"\0\0\0\0")
    yield "100 pings", frame(b"x", 9) * 100
    yield "256 KiB", frame(b"x" * 262_144, 2)
    yield "controls in text", frame(bytes(range(32)) + b"\x7f\xc2\x80")
    yield "noncharacters", frame("\ufffe\uffff\U0010ffff".encode())


def bad_requests():
    for version in ("", "0", "1", "7", "12", "14", "99", "256", "-13", "13.0", "x", "1 3", "0x0d"):
        yield f"version {version!r}", request(Sec_WebSocket_Version=version)
    for name in HEADERS:
        yield f"no {name}", request(**{name: None})
    for name in ("Host", "Sec-WebSocket-Key", "Sec-WebSocket-Version"):
        yield f"{name} twice", request("GET / HTTP/1.1", f"{name}: {HEADERS[name]}")
    for key in ("", "short", KEY[:-1], KEY + "=", "A" * 24, "?" * 22 + "==", KEY * 100, "ü" * 12):
        yield f"key {key[:30]!r}", request(Sec_WebSocket_Key=key)
    for upgrade in ("h2c", "websocket2", "TLS/1.0", "", "web socket"):
        yield f"upgrade {upgrade!r}", request(Upgrade=upgrade)
    for connection in ("close", "keep-alive", "", "Upgraded"):
        yield f"connection {connection!r}", request(Connection=connection)
    for method in ("POST", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "get", "G\0T", "A" * 500):
        yield f"method {method[:20]!r}", request(f"{method} / HTTP/1.1")
    for line in ("GET /", "GET / HTTP/1.1 x", "GET", "", " GET / HTTP/1.1", "GET  /  HTTP/1.1"):
        yield f"line {line!r}", request(line)
    for version in ("HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "HTTP/1", "http/1.1", "ICY"):
        yield f"line {version!r}", request(f"GET / {version}")
    for target in ("/\0", "/ü", "nosuch", "*", "/?\xff", "/a b", "/" + "a" * 17_000, "//evil/"):
        yield f"target {target[:20]!r}", request(f"GET {target} HTTP/1.1")
    for more in (
        *("NoColon", ": empty", "Sp ace: x", "Tab\t: x", "A: b\0c", "A: b\x0bHost: c", "Ü: x"),
        *("Content-Length: -1", "Content-Length: +5", "Content-Length: 5, 5", "Content-Length: x"),
        *("Transfer-Encoding: xchunked", "Transfer-Encoding: chunked, identity"),
        "X: " + "x" * 17_000,
        *("Origin: http://evil.example", "Origin: null", "Origin: http://[::1", "Origin: %"),
        *("Sec-WebSocket-Protocol: ü", "Sec-WebSocket-Protocol: fws, fws.token.nosuch"),
        "Authorization: Token nosuch",
    ):
        yield f"header {more[:30]!r}", request("GET / HTTP/1.1", more)
    yield "501 headers", request("GET / HTTP/1.1", *(f"X-{n}: x" for n in range(501)))
    both = request("GET / HTTP/1.1", "Content-Length: 4", "Transfer-Encoding: chunked")
    yield "length and chunks", both + b"0\r\n\r\n" + request("GET /admin/ HTTP/1.1")
    yield "two lengths", request("GET / HTTP/1.1", "Content-Length: 4", "Content-Length: 5") + b"x"
    chunked = request("POST / HTTP/1.1", "Transfer-Encoding: chunked")
    for chunk in ("-1", "0x5", "5;\0", "zz", "+5"):
        yield f"chunk {chunk!r}", chunked + chunk.encode() + b"\r\nabcde\r\n0\r\n\r\n"
    yield "carriage returns only", request(eol="\r") + b"\n" * 2
    yield "TLS", bytes.fromhex("16030100c8010000c40303") + bytes(190) + b"\r\n\r\n"
    yield "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "SSH", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"
    yield "Redis", b"*1\r\n$4\r\nPING\r\n\r\n"
    yield "a line without end", b"G" * 70_000
    yield "binary", bytes(range(256)) * 8 + b"\r\n\r\n"


def odd_requests():
    yield "upgrades to choose from", request("GET / HTTP/1.1", "Upgrade: h2c")
    yield "a connection with more to say", request(Connection="keep-alive, upgrade")
    yield "WEBSOCKET", request(Upgrade="WEBSOCKET")
    yield "HTTP/1.0", request("GET / HTTP/1.0")
    yield "version 8", request(Sec_WebSocket_Version="8")
    yield "an extension", request("GET / HTTP/1.1", "Sec-WebSocket-Extensions: permessage-deflate")
    yield "headers of no meaning", request("GET / HTTP/1.1", *(f"X-{n}: x" for n in range(300)))
    yield "a header with an underscore", request("GET / HTTP/1.1", "Daphne_Root_Path: /x")


def unfinished():
    """Handshakes, then what comes after one."""
    yield "nothing", b"", None
    yield "half a line", b"GET / HT", None
    yield "half a header", request(end=False), None
    yield "a body that never comes", request("GET / HTTP/1.1", "Content-Length: 9"), None
    yield "blank lines", b"\r\n", None
    yield "line feeds only", request(eol="\n"), None
    chunked = request("POST / HTTP/1.1", "Transfer-Encoding: chunked")
    yield "a chunk of 2 ** 68", chunked + b"FFFFFFFFFFFFFFFFF\r\nabcde", None
    yield "half a text", request(), frame(b"x" * 10, size=1000, width=2)
    yield "a message without end", request(), frame(b"x", fin=False) + frame(b"y", 0, fin=False)
    yield "a message of pings", request(), frame(b"x", fin=False) + frame(b"p", 9) * 50


#: name -> (outcome, handshake, frames)
CASES = {
    **{f"frame: {name}": (CLOSED, request(), data) for name, data in bad_frames()},
    **{f"end: {name}": (CLOSED, request(), data) for name, data in good_ends()},
    **{f"odd: {name}": (SERVED, request(), data) for name, data in odd_but_good()},
    **{f"odd: {name}": (SERVED, data, b"") for name, data in odd_requests()},
    **{f"request: {name}": (REFUSED, data, None) for name, data in bad_requests()},
    **{f"late: {name}": (LATE, *data) for name, *data in unfinished()},
}
