#!/usr/bin/env python3
"""Runs a real Prometheus for a test, without installing one. Python's standard library only.

    prometheus.py tools                     prints the folder with prometheus and promtool
    prometheus.py serve --config FILE       serves until it is ended; prints "ready URL" when it is

The program comes from the Debian package: on PATH if it is installed, else unpacked (never
installed, so that no daemon starts) into $LATHE_CACHE/tools/prometheus. It listens on a free port
of 127.0.0.1 and keeps its data in a temporary folder that goes with it.
"""

import argparse
import contextlib
import glob
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

PROGRAMS = ("prometheus", "promtool")
START_SECONDS = 60


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(os.environ.get("LATHE_CACHE") or os.path.join(base, "lathe"))


def tools_dir():
    """The folder with both programs; fetches and unpacks the package if there is none yet."""
    on_path = [shutil.which(name) for name in PROGRAMS]
    if all(on_path):
        return pathlib.Path(on_path[0]).parent
    target = cache_dir() / "tools" / "prometheus"
    if not all(os.access(target / "usr" / "bin" / name, os.X_OK) for name in PROGRAMS):
        unpack(target)
    return target / "usr" / "bin"


def unpack(target):
    """As scripts/setup does, for runs without it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        subprocess.run(["apt-get", "download", "-qq", "prometheus"], cwd=work, check=True,
                       stdout=sys.stderr)
        package, = glob.glob(os.path.join(work, "prometheus_*.deb"))
        tree = os.path.join(work, "tree")
        subprocess.run(["dpkg", "-x", package, tree], check=True, stdout=sys.stderr)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(tree, target)


def ready_url(log):
    """Reads the log until the program answers; its URL, or None if it ended before."""
    url = None
    ready = False
    for line in log:
        found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', line)
        if found:
            url = "http://" + found.group(1)
        if "Server is ready to receive web requests" in line:
            ready = True
        if ready and url:  # The two lines come from two threads, in any order.
            return url
        show(line)
    return None


def show(line):
    if "level=info" not in line:
        sys.stderr.write(line)


def drain(log):
    """A pipe that nobody reads would stop the program."""
    for line in log:
        show(line)


@contextlib.contextmanager
def running(config):
    """Yields the base URL of a Prometheus that runs with the file `config`."""
    with tempfile.TemporaryDirectory(prefix="lathe-prometheus-") as data:
        process = subprocess.Popen(
            [tools_dir() / "prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}",
             "--web.listen-address=127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
        watchdog = threading.Timer(START_SECONDS, process.kill)
        watchdog.start()
        try:
            url = ready_url(process.stderr)
            watchdog.cancel()
            if url is None:
                raise RuntimeError(f"prometheus ended with code {process.wait()}; config {config}")
            threading.Thread(target=drain, args=(process.stderr,), daemon=True).start()
            yield url
        finally:
            watchdog.cancel()
            process.terminate()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tools")
    commands.add_parser("serve").add_argument("--config", required=True)
    arguments = parser.parse_args()
    if arguments.command == "tools":
        print(tools_dir())
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running(arguments.config) as url, contextlib.suppress(KeyboardInterrupt):
        print("ready", url, flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
