"""The zoo's server, which counts what it is asked and misbehaves as it is told, for tests."""

import gzip
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager

from prefill_router.zoo.serving import Handler, ZooServer, failure, serve


class FaultyHandler(Handler):
    """Plays the faults planned for a question, one a request, then answers."""

    def do_POST(self):
        content = self.rfile.read(int(self.headers["content-length"]))
        request = json.loads(content)
        question = request["messages"][-1]["content"]
        with self.server.lock:
            self.server.requests.append((time.monotonic(), question, dict(self.headers), request))
            self.server.n_open += 1
            self.server.most_open = max(self.server.most_open, self.server.n_open)
            planned = self.server.faults.get(question) or self.server.faults.get("*") or []
            fault = planned.pop(0) if planned else None
        try:
            time.sleep(self.server.delay)
            self.play(fault, content, question)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.server.lock:
                self.server.n_open -= 1

    def play(self, fault, content, question):
        if isinstance(fault, tuple):  # status, headers, message
            status, headers, body = fault
            self.send_body(status, json.dumps(failure(body)).encode(), headers)
        elif fault == "echo":
            key = self.headers.get("authorization", "")
            self.send_body(401, json.dumps(failure(f"Incorrect API key: {key}")).encode())
        elif fault == "echo as answer":
            body = {"choices": [{"message": {"content": self.headers["authorization"]}}]}
            self.send_body(200, json.dumps(body).encode())
        elif fault == "silence":
            self.server.stop.wait(5)
            self.close_connection = True
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif fault == "drip":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                self.wfile.flush()
                if self.server.stop.wait(0.05):
                    break
            self.close_connection = True
        elif isinstance(fault, int):  # a body with no end, under this status
            self.flood(fault)
        elif fault == "packed":
            self.send_body(200, gzip.compress(b" " * 2**24), {"Content-Encoding": "gzip"})
        elif isinstance(fault, bytes):
            self.send_body(200, fault)
        else:
            status, body = self.answer(content)
            if fault == "no usage":
                del body["usage"]
            if status == 200:
                with self.server.lock:
                    self.server.answered[question] += 1
            self.reply(status, body)

    def flood(self, status):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
        while not self.server.stop.is_set():  # until the other side hangs up
            self.wfile.write(chunk)
            with self.server.lock:
                self.server.flooded += 2**16

    def send_body(self, status, content, headers=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


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


def counts_words(self, content):
    """Answer with how many words the question has: what is right is then plain."""
    words = len(json.loads(content)["messages"][-1]["content"].split())
    return 200, {
        "choices": [{"message": {"content": str(words)}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": words, "completion_tokens": 1},
    }
