"""A TCP relay on loopback that a test can cut or hold: the network between a worker and its coordinator."""

import contextlib
import socket
import threading

CHUNK = 64 << 10


class Link:
    """Listens on a free port; every connection is relayed to `target` while the link is up."""

    def __init__(self, target):
        self.target = target
        self.up = threading.Event()
        self.up.set()
        self.lock = threading.Lock()
        self.sockets = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self):
        """Bytes stay where they are: neither side is told."""
        self.up.clear()

    def release(self):
        self.up.set()

    def cut(self):
        """Both sides see a broken connection."""
        with self.lock:
            sockets, self.sockets = self.sockets, set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.release()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.target, timeout=5)
                far.settimeout(None)
            except ConnectionError:
                near.close()
                continue
            except OSError:
                return
            with self.lock:
                self.sockets |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self.up.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self.lock:
            self.sockets -= {source, sink}
        source.close()
