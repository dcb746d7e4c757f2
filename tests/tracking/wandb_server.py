"""As much of a W&B server as the client needs to upload runs: it keeps each run's history and summary."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """`runs` by id: {"history": rows, "summary": dict, "exit_code": int}."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, dict[str, Any]] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no matter."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/graphql":
            request = json.loads(body)
            self._answer({"data": self._query(request["query"], request.get("variables") or {})})
        elif self.path.endswith("/file_stream"):
            self._stream(self.path.split("/")[-2], json.loads(body))
            self._answer({"exitcode": None, "limits": {}})
        else:
            self._answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer({})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        owner = {"id": "p", "name": "tests", "entity": {"id": "e", "name": "entity"}}
        if "RunResumeStatus" in query:
            run = self.server.runs.get(variables["name"])
            return {"model": {**owner, "bucket": None if run is None else _resume(run)}}
        if "UpsertBucket" in query:
            name = variables["name"]
            self.server.runs.setdefault(name, {"history": [], "summary": {}, "exit_code": None})
            bucket = {"id": "x", "name": name, "displayName": "d", "config": "{}", "project": owner}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.address}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        return {"viewer": {"id": "u", "entity": "entity", "username": "u", "flags": "{}", "teams": {"edges": []}}}

    def _stream(self, name: str, request: dict[str, Any]) -> None:
        run = self.server.runs[name]
        for file, chunk in (request.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run["history"][chunk["offset"] :] = [json.loads(line) for line in chunk["content"]]
            if file == "wandb-summary.json":
                run["summary"] = json.loads(chunk["content"][-1])
        if request.get("complete"):
            run["exit_code"] = request["exitcode"]

    def _answer(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _resume(run: dict[str, Any]) -> dict[str, Any]:
    tail = [json.dumps(row) for row in run["history"][-1:]]
    return {
        "id": "x",
        "name": "r",
        "displayName": "d",
        "summaryMetrics": json.dumps(run["summary"]),
        "historyLineCount": len(run["history"]),
        "eventsLineCount": 0,
        "logLineCount": 0,
        "historyTail": json.dumps(tail),
        "eventsTail": "[]",
        "config": "{}",
        "tags": [],
        "wandbConfig": '{"t": 1}',
    }
