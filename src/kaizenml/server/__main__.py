"""``python -m kaizenml.server --project DIR``: run the control plane; prints one JSON line when it listens."""

from __future__ import annotations

import argparse
import os
import sys

import msgspec

from kaizenml.errors import KaizenError
from kaizenml.project import open_project
from kaizenml.server.app import serve


def main(arguments: list[str] | None = None) -> int:
    """Run the control plane; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kaizenml.server", description="Run the control API and the console of a project.")
    parser.add_argument("--project", default=".", metavar="DIR", help="the project folder (default: here)")
    parser.add_argument("--host", help="where to listen (default: [console] host); anything but loopback needs KAIZEN_TOKEN")
    parser.add_argument("--port", type=int, help="default: [console] port; 0 takes a free one")
    parser.add_argument("--root-path", default="", metavar="PREFIX", help="path prefix under which a proxy shows the console")
    parser.add_argument("--public-host", action="append", default=[], metavar="NAME", help="a name by which a proxy is asked; needs KAIZEN_TOKEN")
    options = parser.parse_args(arguments)

    def ready(port: int) -> None:
        sys.stdout.write(msgspec.json.encode({"port": port, "pid": os.getpid()}).decode() + "\n")
        sys.stdout.flush()

    try:
        serve(
            open_project(options.project), host=options.host, port=options.port, root_path=options.root_path,
            public_hosts=options.public_host, ready=ready,
        )  # fmt: skip
    except KaizenError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
