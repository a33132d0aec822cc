"""A hub in memory, as far as an import needs one: the two API calls and the files, with ranges, a token and faults."""

import hashlib
import http.server
import json
import os
import threading

COMMIT = "c" * 40


class FakeHub:
    """Serves the files of `folder` as OWNER/NAME "lab/tiny". Fields may be changed while it runs."""

    def __init__(self, folder):
        self.files = {}
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as f:
                self.files[name] = f.read()
        self.token = ""  # Wanted if not empty.
        self.cut_after = {}  # File name -> bytes after which the first answers break off.
        self.num_cuts = 1
        self.corrupt = {}  # File name -> number of answers with a wrong last byte.
        self.busy = 0  # So many calls get 503.
        self.calls = []  # (path, range)
        self.authorizations = set()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                hub.answer(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        self.calls.append((request.path, request.headers.get("Range", "")))
        self.authorizations.add(request.headers.get("Authorization", ""))
        if self.busy > 0:
            self.busy -= 1
            return self.send(request, 503, b"busy")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.send(request, 401, b"no")
        if request.path == "/api/models/lab/tiny/revision/main":
            return self.send(request, 200, json.dumps({"id": "lab/tiny", "sha": COMMIT}).encode())
        if request.path == f"/api/models/lab/tiny/tree/{COMMIT}":
            return self.send(request, 200, json.dumps([self.entry(name) for name in self.files]).encode())
        name = request.path.rpartition("/")[2]
        if request.path == f"/lab/tiny/resolve/{COMMIT}/{name}" and name in self.files:
            return self.send_file(request, name)
        return self.send(request, 404, b"none")

    def entry(self, name):
        data = self.files[name]
        entry = {"type": "file", "path": name, "size": len(data),
                 "oid": hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()}
        if name.endswith((".safetensors", ".gguf")):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def send_file(self, request, name):
        data = self.files[name]
        if self.corrupt.get(name, 0) > 0:
            self.corrupt[name] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = 0
        if request.headers.get("Range"):
            start = int(request.headers["Range"].split("=")[1].split("-")[0])
        body = data[start:]
        request.send_response(206 if request.headers.get("Range") else 200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if name in self.cut_after and self.num_cuts > 0:
            self.num_cuts -= 1
            request.wfile.write(body[: self.cut_after[name]])
            request.wfile.flush()
            request.close_connection = True
            request.connection.shutdown(2)
            return
        request.wfile.write(body)

    @staticmethod
    def send(request, code, body):
        request.send_response(code)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
