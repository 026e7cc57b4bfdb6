"""The zoo behind an OpenAI-compatible endpoint on this machine, to try out `collect`."""

from __future__ import annotations

import functools
import json
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prefill_router.answers.generation import Decoding, generate
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.prompts import Prompts, token_limit
from prefill_router.extraction.sources import resolve, zoo_names

LOOPBACK = "127.0.0.1"
BODY_LIMIT = 2**20


class Handler(BaseHTTPRequestHandler):
    """`/v1/chat/completions` and `/v1/models`, as far as collecting labels needs them."""

    protocol_version = "HTTP/1.1"
    server: ZooServer

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self.reply(404, failure(f"there is no {self.path:.80}"))
        models = [{"id": name, "object": "model", "owned_by": "zoo"} for name in zoo_names()]
        self.reply(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if length > BODY_LIMIT:
            self.close_connection = True
            return self.reply(413, failure("the request is too long"))
        content = self.rfile.read(length)  # or what follows on this connection would begin with it
        if self.path != "/v1/chat/completions":
            return self.reply(404, failure(f"there is no {self.path:.80}"))
        self.reply(*self.answer(content))

    def answer(self, content: bytes) -> tuple[int, dict[str, Any]]:
        """Return the status and the body that a chat completion request gets."""
        try:
            request = json.loads(content)
            model, question = request["model"], request["messages"][-1]["content"]
            fields = {"max_tokens": 96, "temperature": 0, "seed": 0} | request
            decoding = Decoding(fields["max_tokens"], fields["temperature"], fields["seed"])
            if model not in zoo_names():
                return 404, failure(f"there is no model {model!r:.80}")
            text, n_input, n_output = self.server.ask(model, question, decoding)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return 400, failure(str(error)[:200])
        usage = {"prompt_tokens": n_input, "completion_tokens": n_output}
        usage["total_tokens"] = n_input + n_output
        finish = "length" if n_output >= decoding.max_new_tokens else "stop"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        about = {"id": "zoo", "object": "chat.completion", "created": 0, "model": model}
        return 200, about | {"choices": [choice], "usage": usage}

    def reply(self, status: int, body: dict[str, Any]) -> None:
        """Send a status and a JSON body."""
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing: requests may hold what their senders want kept private."""


def failure(message: str) -> dict[str, Any]:
    """Return the body of an error, as OpenAI's endpoint writes it."""
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


class ZooServer(ThreadingHTTPServer):
    """The zoo on a port of this machine that no other machine can reach.

    Questions that wait for one model are answered in one batch.

    Parameters
    ----------
    port : int, default 0
        0 takes a free one.
    handler : type, default `Handler`
        Handles requests.

    Raises
    ------
    InputError
        If the port is taken.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int = 0, handler: type[Handler] = Handler):
        try:
            super().__init__((LOOPBACK, port), handler)
        except OSError as error:
            raise InputError(f"port {port} cannot be used ({error.strerror}); try 0.") from None
        self._waiting: dict[tuple[str, Decoding], deque[tuple[str, Future]]] = {}
        self._answering = threading.Lock()
        self._load = functools.cache(lambda name: load_target(resolve(name)))

    @property
    def base_url(self) -> str:
        """The ``base_url`` of targets served here."""
        return f"http://{LOOPBACK}:{self.server_port}/v1"

    def ask(self, model: str, question: str, decoding: Decoding) -> tuple[str, int, int]:
        """Return an answer and the numbers of tokens of prompt and answer.

        Raises
        ------
        InputError
            If there is no such model, or the question is too long.
        """
        future: Future = Future()
        waiting = self._waiting.setdefault((model, decoding), deque())
        waiting.append((question, future))
        with self._answering:  # whoever gets it answers for all who wait for the same model
            if asked := [waiting.popleft() for _ in range(len(waiting))]:
                self._answer(model, decoding, asked)
        return future.result()

    def _answer(self, name: str, decoding: Decoding, asked: list[tuple[str, Future]]) -> None:
        questions = [question for question, _ in asked]
        try:
            model, tokenizer = self._load(name)
            n_input = Prompts(tokenizer, token_limit(model, tokenizer)).count(questions).tolist()
            answers, n_output = generate(model, tokenizer, questions, decoding)
            for one, *found in zip(asked, answers, n_input, n_output.tolist(), strict=True):
                one[1].set_result(found)
        except Exception as error:
            if len(asked) == 1:
                return asked[0][1].set_exception(error)
            for one in asked:  # so that one bad question spoils no other
                self._answer(name, decoding, [one])


@contextmanager
def serve(server: ZooServer) -> Iterator[str]:
    """Serve while the block runs; yields the base URL."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.base_url
        finally:
            server.shutdown()
            thread.join()
