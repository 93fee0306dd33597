"""A stand-in for the W&B server on the loopback address: what wandb 0.31 needs of it to log, resume, sync and save a workspace.

with Server() as server:
    ... run something with server.environment ...
    server.runs["<run id>"].history, .summary, .config, .fields
"""

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
LOCAL = {"id": NODE["id"], "name": "local"}


def address(port: int) -> dict[str, str]:
    return {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": "local-" + "a" * 40}


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

    def upsert(self, given: dict[str, Any]) -> None:
        self.fields |= {key: value for key, value in given.items() if value is not None}
        self.config |= {key: entry["value"] for key, entry in json.loads(given.get("config") or "{}").items()}
        self.job_types += filter(None, [given.get("jobType")])

    def stream(self, update: dict[str, Any]) -> None:
        """One request of the file stream: history lines from an offset on, the newest summary, the end."""
        files = update.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            self.history[history["offset"] :] = map(json.loads, history["content"])
        if summary := files.get("wandb-summary.json"):
            self.summary = json.loads(summary["content"][-1])
        self.exit_code = update.get("exitcode") if update.get("complete") else self.exit_code

    def bucket(self, name: str) -> dict[str, Any]:
        tail = json.dumps([json.dumps(row) for row in self.history[-1:]])
        config = json.dumps({key: {"value": value} for key, value in self.config.items()})
        kept = {"historyTail": tail, "historyLineCount": len(self.history), "summaryMetrics": json.dumps(self.summary), "config": config}
        none = {"tags": [], "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"}
        resumable = {"wandbConfig": '{"t": 1}'}  # the client takes only a run with this key for one to resume
        return {**NODE, "name": name, "displayName": self.fields.get("displayName"), **kept, **none, **resumable}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, StoredRun] = {}
        self.views: list[dict[str, Any]] = []
        self.connections: list[socket.socket] = []
        self.environment = address(self.server_address[1])
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error here."""

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on connections are refused, and those that are open are cut."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """Whatever is asked, all that a client may want to know: it takes the part that it asked for."""
        name, known = given.get("name"), given.get("name") in self.runs
        if "upsertBucket(" in query:
            self.runs.setdefault(given["name"], StoredRun()).upsert(given)
        if "upsertView(" in query:
            self.views.append(given)
        project = {**NODE, "name": given.get("project") or given.get("projectName"), "entity": LOCAL, "entityName": given.get("entityName")}
        bucket = {**self.runs[name].bucket(name), "project": project} if name in self.runs else None
        upload = f"{self.environment['WANDB_BASE_URL']}/upload/"
        files = [{"name": file, "uploadUrl": upload + file} for file in given.get("files") or []]  # without, the client crashes
        return {
            "upsertBucket": {"inserted": not known, "bucket": bucket},
            "model": {**NODE, "name": "sam", "entity": LOCAL, "bucket": bucket},
            "viewer": {**NODE, "entity": "local", "username": "local", "flags": "{}", "teams": {"edges": []}},
            "createRunFiles": {"runID": NODE["id"], "uploadHeaders": [], "files": files},
            "upsertView": {"inserted": True, "view": {**given, "id": NODE["id"], "updatedAt": None, "project": project}},
            "project": NODE,
            "serverInfo": {"features": []},
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        """GET and PUT, too: everything is read, and answered with JSON."""
        body, reply = self.rfile.read(int(self.headers.get("Content-Length") or 0)), {}
        sent = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        if self.path.endswith("/graphql"):
            asked = json.loads(sent)
            reply = {"data": self.server.answer(asked["query"], asked.get("variables") or {})}
        elif match := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.server.runs.setdefault(match[1], StoredRun()).stream(json.loads(sent))
            reply = {"exitcode": None, "limits": {}}
        encoded = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_PUT = do_POST


@contextlib.contextmanager
def silent() -> Iterator[dict[str, str]]:
    """The environment of a server that accepts every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield address(listener.getsockname()[1])
