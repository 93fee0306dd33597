"""A stand-in for the W&B server on the loopback address: what wandb 0.31 needs of it to log, resume, sync and save a workspace.

    with serve() as server:
        ... run something with server.environment ...
        server.runs["<run id>"].history, .summary, .config, .fields

It answers the GraphQL operations that these paths use, and keeps what the file stream sends. No artifacts, no queries.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NODE = {"id": "bm9kZQ==", "internalId": "bm9kZTox"}  # any base64 will do


@dataclass
class StoredRun:
    """fields: group, job type and the like, as last sent; job_types: every one sent, in order."""

    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    job_types: list[str] = field(default_factory=list)

    @property
    def epochs(self) -> list[int]:
        return [row["epoch"] for row in self.history]

    def stream(self, update: dict[str, Any]) -> None:
        """One request of the file stream: history lines from an offset on, the newest summary, the end."""
        for name, part in (update.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                self.history[part["offset"] :] = [json.loads(line) for line in part["content"]]
            elif name == "wandb-summary.json":
                self.summary = json.loads(part["content"][-1])
        if update.get("complete"):
            self.exit_code = update.get("exitcode")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, StoredRun] = {}
        self.views: list[dict[str, Any]] = []
        self.alive = True
        self.connections: list[socket.socket] = []
        self.environment = {"WANDB_BASE_URL": f"http://127.0.0.1:{self.server_address[1]}", "WANDB_API_KEY": "local-" + "a" * 40}
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error here."""

    def stop(self) -> None:
        """From now on connections are refused, and those that are open are cut."""
        if self.alive:
            self.alive = False
            self.shutdown()
            self.server_close()
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def answer(self, operation: str, given: dict[str, Any], host: str) -> dict[str, Any]:
        """The data of one GraphQL operation; an unknown one gets none."""
        if operation == "UpsertBucket":
            return {"upsertBucket": {"inserted": given["name"] not in self.runs, "bucket": self._upsert(given)}}
        if operation == "RunResumeStatus":
            return {"model": {**NODE, "name": "sam", "entity": self._entity(), "bucket": self._resumable(given["name"])}}
        if operation in ("Viewer", "GetDefaultEntity"):
            return {"viewer": {**NODE, "entity": "local", "username": "local", "flags": "{}", "teams": {"edges": []}}}
        if operation == "CreateRunFiles":  # the client crashes if it gets no addresses
            files = [{"name": name, "uploadUrl": f"{host}/upload/{given['run']}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": NODE["id"], "uploadHeaders": [], "files": files}}
        if operation.lower().startswith("upsertview"):
            self.views.append(given)
            project = {**NODE, "name": given["projectName"], "entityName": given["entityName"]}
            return {"upsertView": {"inserted": True, "view": {**given, "id": NODE["id"], "updatedAt": None, "project": project}}}
        if operation == "ProjectInternalId":
            return {"project": NODE}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        return {}

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], StoredRun())
        run.fields |= {key: value for key, value in given.items() if value is not None}
        run.config |= {key: entry["value"] for key, entry in json.loads(given.get("config") or "{}").items()}
        if given.get("jobType"):
            run.job_types.append(given["jobType"])
        project = {**NODE, "name": given["project"], "entity": self._entity()}
        return {**self._bucket(given["name"], run), "project": project, "sweepName": None, "description": None}

    def _resumable(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        return {
            **self._bucket(name, run),
            "tags": [],
            "logLineCount": 0,
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "summaryMetrics": json.dumps(run.summary),
            "wandbConfig": '{"t": 1}',  # the client takes only a run with this key for one to resume
        }

    def _bucket(self, name: str, run: StoredRun) -> dict[str, Any]:
        return {
            "id": NODE["id"],
            "name": name,
            "displayName": run.fields.get("displayName"),
            "historyLineCount": len(run.history),
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
        }

    def _entity(self) -> dict[str, str]:
        return {"id": NODE["id"], "name": "local"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        sent = json.loads(self._body())
        if self.path.endswith("/graphql"):
            match = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
            operation = sent.get("operationName") or (match.group(1) if match else "")
            host = f"http://{self.headers['Host']}"
            return self._reply({"data": self.server.answer(operation, sent.get("variables") or {}, host)})
        if match := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.server.runs.setdefault(match.group(1), StoredRun()).stream(sent)
        self._reply({"exitcode": None, "limits": {}})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, content: dict[str, Any]) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def silent() -> Iterator[dict[str, str]]:
    """The environment of a server that accepts every connection and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield {"WANDB_BASE_URL": f"http://127.0.0.1:{listener.getsockname()[1]}", "WANDB_API_KEY": "local-" + "a" * 40}
