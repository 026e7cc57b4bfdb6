"""The zoo behind an OpenAI-compatible endpoint on this machine, for trying out what asks one."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prefill_router.answers.generation import Decoding, generate
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.prompts import Prompts, token_limit
from prefill_router.extraction.sources import resolve, zoo_names

LOOPBACK = "127.0.0.1"
BODY_LIMIT = 2**20
BATCH = 64


class Answerer:
    """Models of the zoo, which answer the questions that wait for one of them in one batch."""

    def __init__(self):
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()
        self._models: dict[str, tuple[Any, Any]] = {}
        threading.Thread(target=self._work, daemon=True).start()

    def ask(self, model: str, question: str, decoding: Decoding) -> tuple[str, int, int]:
        """Return an answer and the tokens of prompt and answer.

        Raises
        ------
        InputError
            If there is no such model, or the question is too long.
        """
        future: Future = Future()
        self._waiting.put((model, question, decoding, future))
        return future.result()

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while not self._waiting.empty() and len(batch) < BATCH:
                batch.append(self._waiting.get())
            alike: dict[tuple[str, Decoding], list[tuple[str, Future]]] = {}
            for model, question, decoding, future in batch:
                alike.setdefault((model, decoding), []).append((question, future))
            for (model, decoding), asked in alike.items():
                self._answer(model, decoding, asked)

    def _answer(self, model: str, decoding: Decoding, asked: list[tuple[str, Future]]) -> None:
        try:
            if model not in self._models:
                self._models[model] = load_target(resolve(model))
            loaded, tokenizer = self._models[model]
            questions = [question for question, _ in asked]
            prompts = Prompts(tokenizer, token_limit(loaded, tokenizer))
            n_input = prompts.count(questions)
            answers, n_output = generate(loaded, tokenizer, questions, decoding)
        except Exception as error:  # whatever it is, those who wait must hear of it
            if len(asked) == 1:
                asked[0][1].set_exception(error)
            else:  # one question's fault is not the others'
                for one in asked:
                    self._answer(model, decoding, [one])
            return
        for (_, future), answer, before, after in zip(
            asked, answers, n_input, n_output, strict=True
        ):
            future.set_result((answer, int(before), int(after)))


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
        if self.path != "/v1/chat/completions":
            return self.reply(404, failure(f"there is no {self.path:.80}"))
        length = int(self.headers.get("content-length") or 0)
        if length > BODY_LIMIT:
            self.close_connection = True
            return self.reply(413, failure("the request is too long"))
        self.reply(*self.answer(self.rfile.read(length)))

    def answer(self, content: bytes) -> tuple[int, dict[str, Any]]:
        """Return the status and the body that a chat completion request gets."""
        try:
            request = json.loads(content)
            model, question = request["model"], request["messages"][-1]["content"]
            decoding = Decoding(
                request.get("max_tokens", 96), request.get("temperature", 0), request.get("seed", 0)
            )
            if model not in zoo_names():
                return 404, failure(f"there is no model {model!r:.80}")
            text, n_input, n_output = self.server.answerer.ask(model, question, decoding)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return 400, failure(str(error)[:200])
        finish = "length" if n_output >= decoding.max_new_tokens else "stop"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": n_input, "completion_tokens": n_output}
        return 200, {
            "id": "zoo",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [choice | {"finish_reason": finish}],
            "usage": usage | {"total_tokens": n_input + n_output},
        }

    def reply(self, status: int, body: dict[str, Any]) -> None:
        """Send a status and a JSON body."""
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep quiet: requests carry what their senders may not want logged."""


def failure(message: str) -> dict[str, Any]:
    """Return the body of an error, as OpenAI's endpoint writes it."""
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


class ZooServer(ThreadingHTTPServer):
    """The zoo on a port of this machine that no other machine reaches.

    Parameters
    ----------
    port : int, default 0
        0 takes a free one.
    handler : type, default `Handler`
        What answers requests.

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

    @cached_property
    def answerer(self) -> Answerer:
        """The models, loaded when first asked."""
        return Answerer()

    @property
    def base_url(self) -> str:
        """What a target's ``base_url`` must say."""
        return f"http://{LOOPBACK}:{self.server_port}/v1"


@contextmanager
def serve(server: ZooServer) -> Iterator[str]:
    """Serve while the block runs; yields the base URL."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.base_url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
