"""A server that answers with the number of a question's words, and misbehaves as it is told."""

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager

from prefill_router.zoo.serving import Handler, ZooServer, failure, serve


class FaultyHandler(Handler):
    """Plays the faults planned for a question, one a request, then answers.

    A fault is (status, headers, body or message), a body, ``"silence"``, ``"cut"``, ``"drip"``, or
    a status whose body never ends.
    """

    def do_POST(self):
        content = self.rfile.read(int(self.headers["content-length"]))
        request = json.loads(content)
        question = request["messages"][-1]["content"]
        server = self.server
        with server.lock:
            server.requests.append((time.monotonic(), question, dict(self.headers), request))
            server.n_open += 1
            server.most_open = max(server.most_open, server.n_open)
            planned = server.faults.get(question) or server.faults.get("*") or []
            fault = planned.pop(0) if planned else None
        try:
            time.sleep(server.delay)
            if fault is None:
                with server.lock:
                    server.answered[question] += 1
                self.reply(*self.answer(content))
            else:
                self.play(fault)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with server.lock:
                server.n_open -= 1

    def answer(self, content):
        words = len(json.loads(content)["messages"][-1]["content"].split())
        return 200, {
            "choices": [{"message": {"content": str(words)}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": words, "completion_tokens": 1},
        }

    def play(self, fault):
        if isinstance(fault, bytes):
            fault = 200, {}, fault
        if isinstance(fault, tuple):
            status, headers, body = fault
            body = body if isinstance(body, bytes) else json.dumps(failure(body)).encode()
            self.begin(status, {"Content-Length": len(body), **headers})
            self.wfile.write(body)
            return
        self.close_connection = True
        if fault == "silence":
            self.server.stop.wait(5)
        elif fault in ("cut", "drip"):
            self.begin(200, {"Content-Length": 1000})
            self.wfile.write(b'{"choices": [')
            while fault == "drip" and not self.server.stop.wait(0.05):
                self.wfile.write(b" ")
        else:
            self.begin(fault, {"Transfer-Encoding": "chunked"})
            while not self.server.stop.is_set():  # until the other side hangs up
                self.wfile.write(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
                with self.server.lock:
                    self.server.flooded += 2**16

    def begin(self, status, headers):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()


class FaultyServer(ZooServer):
    """Faults by question (``"*"``: any), consumed one a request; what was asked, and when."""

    def __init__(self, faults=None, delay=0.0):
        super().__init__(0, FaultyHandler)
        self.faults, self.delay = faults or {}, delay
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.requests, self.answered = [], Counter()
        self.n_open = self.most_open = 0
        self.flooded = 0  # bytes of endless bodies that were sent

    @property
    def asked(self):
        """How often each question came."""
        return Counter(question for _, question, _, _ in self.requests)


@contextmanager
def faulty(faults=None, delay=0.0):
    server = FaultyServer(faults, delay)
    with serve(server):
        try:
            yield server
        finally:
            server.stop.set()
