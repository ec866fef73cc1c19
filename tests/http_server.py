"""A loopback HTTP server that misbehaves as told, one answer after the other."""

import contextlib
import dataclasses
import http.server
import os
import re
import socket
import struct
import threading
from typing import NamedTuple


class Request(NamedTuple):
    """What was asked, and how many bytes of content the answer holds."""

    path: str
    range: str | None
    sent: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer; by default the content as it is, or the range of it that was asked for.

    status: anything but 200 is sent without content.
    content: replaces the server's content.
    cut: the number of bytes of content after which the answer breaks off.
    stall: at the cut, falls silent until the server is released, instead of closing.
    reset: at the cut, resets the connection instead of closing it.
    ranges: whether ranges are honoured.
    shift: how many bytes later than asked a range starts.
    content_range: replaces that header; {start}, {last} and {total} are filled in.
    length: whether the header Content-Length is sent.
    location: where the client is sent instead.
    """

    status: int = 200
    content: bytes | None = None
    cut: int | None = None
    stall: bool = False
    reset: bool = False
    ranges: bool = True
    shift: int = 0
    content_range: str = "bytes {start}-{last}/{total}"
    length: bool = True
    location: str | None = None


class Server(http.server.ThreadingHTTPServer):
    """Gives the answers in turn, then only the content; keeps a log of the requests."""

    def __init__(self, content: bytes, *answers: Answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.log: list[Request] = []
        self.released = threading.Event()
        self._answers = iter(answers)
        self._turn = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next_answer(self) -> Answer:
        with self._turn:
            return next(self._answers, Answer())


@contextlib.contextmanager
def serving(content: bytes, *answers: Answer):
    with Server(content, *answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        self.close_connection = True
        answer = self.server.next_answer()
        content = self.server.content if answer.content is None else answer.content
        asked = self.headers.get("Range")
        body, status, headers = content, answer.status, {}
        if answer.location is not None:
            body, status = b"", 302
            headers["Location"] = answer.location
        elif status != 200:
            body = b""
        elif asked and answer.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + answer.shift
            body, status = content[start:], 206 if start < len(content) else 416
            headers["Content-Range"] = (
                answer.content_range.format(start=start, last=len(content) - 1, total=len(content))
                if body
                else f"bytes */{len(content)}"
            )
        if answer.length:
            headers["Content-Length"] = str(len(body))
        body = body[: answer.cut]
        # Before anything is sent: the client may look at the log as soon as it has all.
        self.server.log.append(Request(self.path, asked, len(body)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if answer.stall:
            self.server.released.wait()
        if answer.reset:
            # Closing with a linger time of zero sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def log_message(self, *_):
        pass
