"""A hub on loopback: what huggingface_hub's client asks of the real one, kept in a dict."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_writer"
READER = "hf_reader"


@dataclass
class Repo:
    """Commits are whole trees: address -> files by path, and their messages."""

    private: bool = False
    commits: dict = field(default_factory=dict)
    messages: list = field(default_factory=list)
    head: str = ""

    def commit(self, changes, message):
        files = {**self.commits.get(self.head, {}), **changes}
        seed = json.dumps([self.head, message, len(self.commits)]).encode()
        self.head = hashlib.sha1(seed).hexdigest()
        self.commits[self.head] = files
        self.messages.append(message)
        return self.head


class Hub(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos = {}
        self.pulls = []
        self.before_commit = None  # called once, before the next commit is taken

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo_id):
        repo = self.repos[repo_id]
        return repo.commits[repo.head]

    def handle_error(self, request, client_address):
        """A client that leaves early is no news."""


@contextmanager
def running():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, text):
        self.answer(status, {"error": text}, X_Error_Code=code, X_Error_Message=text)

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def repo(self, repo_id):
        """The repository, or None after it was refused as the hub does."""
        repo = self.server.repos.get(repo_id)
        if repo is None or (repo.private and self.token not in (TOKEN, READER)):
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return None
        return repo

    def may_write(self):
        if self.token == TOKEN:
            return True
        if self.token == READER:
            self.answer(403, {"error": "You don't have the rights to write"})
        else:
            self.answer(401, {"error": "Invalid username or password."})
        return False

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            repo_id, what, revision = found.groups()
            if (repo := self.repo(repo_id)) is None:
                return
            sha = repo.head if revision in (None, "main") else revision
            if sha not in repo.commits:
                self.refuse(404, "RevisionNotFound", "Invalid rev id")
                return
            files = repo.commits[sha]
            if what == "tree":
                self.answer(
                    200,
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": blob_id(data)}
                        for name, data in files.items()
                    ],
                )
                return
            self.answer(
                200,
                {
                    "_id": "0",
                    "id": repo_id,
                    "modelId": repo_id,
                    "private": repo.private,
                    "sha": sha,
                    "tags": [],
                    "siblings": [{"rfilename": name} for name in files],
                },
            )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo_id, revision, name = found.groups()
            if (repo := self.repo(repo_id)) is None:
                return
            sha = repo.head if revision == "main" else revision
            data = repo.commits.get(sha, {}).get(name)
            if data is None:
                self.send_missing(sha)
            else:
                self.answer(200, data, ETag=f'"{blob_id(data)}"', X_Repo_Commit=sha)
        else:
            self.answer(404, {"error": f"no {path}"})

    def send_missing(self, sha):
        text = "Entry not found"
        self.answer(
            404,
            text.encode(),
            X_Error_Code="EntryNotFound",
            X_Error_Message=text,
            X_Repo_Commit=sha,
        )

    def do_POST(self):
        path, body = unquote(urlsplit(self.path).path), self.body()
        if path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif not self.may_write():
            return
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo_id = f"{asked.get('organization') or 'writer'}/{asked['name']}"
            address = {"url": f"{self.server.endpoint}/{repo_id}"}
            if repo_id in self.server.repos:
                self.answer(409, {"error": "You already created this model repo", **address})
                return
            private = asked.get("private") or asked.get("visibility") == "private"
            repo = self.server.repos[repo_id] = Repo(bool(private))
            repo.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
            self.answer(200, address)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = self.server.files(found[1])
            self.answer(
                200,
                {
                    "files": [
                        {
                            "path": one["path"],
                            "uploadMode": "regular",
                            "shouldIgnore": False,
                            "oid": blob_id(files[one["path"]]) if one["path"] in files else None,
                        }
                        for one in json.loads(body)["files"]
                    ]
                },
            )
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404, {"error": f"no {path}"})

    def commit(self, repo_id, lines):
        repo, meanwhile = self.server.repos[repo_id], self.server.before_commit
        if meanwhile is not None:
            self.server.before_commit = None
            meanwhile(repo)
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, repo.head):
            self.answer(412, {"error": "A commit has happened since. Please refresh."})
            return
        changes = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        address = f"{self.server.endpoint}/{repo_id}"
        if "create_pr=1" in self.path:
            self.server.pulls.append(changes)
            number = len(self.server.pulls)
            pull = {"pullRequestUrl": f"{address}/discussions/{number}"}
            commit = {"commitOid": "0" * 40, "commitUrl": f"{address}/commit/{'0' * 40}"}
            self.answer(200, {"success": True, **commit, **pull})
            return
        sha = repo.commit(changes, header["summary"])
        done = {"success": True, "commitOid": sha, "commitUrl": f"{address}/commit/{sha}"}
        self.answer(200, done)


def blob_id(data):
    """Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
