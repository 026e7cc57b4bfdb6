"""What of the Hugging Face hub a router needs, on loopback: repositories, uploads, downloads."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from prefill_router.zoo import serving

COMMIT = "c" * 40


class Hub:
    """Keeps what is uploaded; `files` and `sizes` by name, `requests` as (method, path, token)."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.sizes: dict[str, int | None] = {}  # instead of the true ones
        self.requests: list[tuple[str, str, str]] = []


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def reply(self, content, status=200, headers=()):
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(content), **dict(headers)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def answer(self):
            path, body = self.path.partition("?")[0], self.body()
            hub.requests.append((self.command, path, self.headers.get("Authorization", "")))
            base = f"http://{self.headers['Host']}"
            of_a_repository = path.startswith(("/api/models/", "/someone/"))
            if of_a_repository and "someone/router" not in path:
                self.reply({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif path == "/api/repos/create":
                name = json.loads(body)["name"]
                self.reply({"url": f"{base}/someone/{name}", "id": f"someone/{name}"})
            elif path == "/api/validate-yaml":
                front = json.loads(body)["content"].split("---")[1]
                errors = [] if "library_name: prefill-router" in front else [{"message": front}]
                self.reply({"errors": errors, "warnings": []}, 400 if errors else 200)
            elif "/preupload/" in path:
                plain = {"uploadMode": "regular", "shouldIgnore": False}
                names = [file["path"] for file in json.loads(body)["files"]]
                self.reply({"files": [{"path": name, **plain} for name in names]})
            elif "/commit/" in path:
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                url = f"{base}/someone/router/commit/{COMMIT}"
                self.reply({"success": True, "commitUrl": url, "commitOid": COMMIT})
            elif "/revision/" in path or path == "/api/models/someone/router":
                siblings = [{"rfilename": name} for name in hub.files]
                if "blobs=" in self.path:
                    for one in siblings:
                        name = one["rfilename"]
                        one["size"] = hub.sizes.get(name, len(hub.files[name]))
                self.reply({"id": "someone/router", "sha": COMMIT, "siblings": siblings})
            elif "/tree/" in path:
                listed = [
                    {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for n, c in hub.files.items()
                ]
                self.reply(listed)
            elif "/resolve/" in path and path.rpartition("/")[2] in hub.files:
                content = hub.files[path.rpartition("/")[2]]
                tag = hashlib.sha256(content).hexdigest()
                self.reply(content, headers={"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
            else:
                self.reply({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        do_GET = do_HEAD = do_POST = answer

    return Handler


@contextmanager
def serve():
    """Yield the address of a hub, and the hub."""
    hub = Hub()
    with serving.serve(serving.ZooServer(handler=handler(hub))) as base_url:
        yield base_url.removesuffix("/v1"), hub
