"""Read the examples of a Markdown page and walk through them as a reader would: the same shell, the same order, a fresh folder.

* ``console``: lines that begin with ``$`` are typed (``>`` goes on with one); what follows is what must be printed, where
  ``...`` stands for anything and runs of spaces count as one. In a block without ``$`` every line is typed.
* ``python``: run; a block that begins with ``# NAME.py`` is saved under that name instead.
* ``kaizen up``, ``serve`` and ``console`` run beside the rest, until the page shows ``^C`` or ends.

Ports that pages name are replaced by free ones, in what is typed and in what is expected.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BESIDE = re.compile(r"^(\w+=\S+ )*kaizen (up|serve|console)\b(?!.*--help)")
_PORTS = re.compile(r"\b(8080|8081|9000|9001)\b")
_BUSY = "another loop works on this project"
_LISTENS = "Ctrl-C stops"
PATIENCE_S = 100
ENVIRONMENT = {
    "COLUMNS": "110", "NO_COLOR": "1", "GIT_CONFIG_NOSYSTEM": "1",
    # small budgets, and gates that forgive a busy machine
    "KAIZEN_TRAIN_BUDGET": "1s", "KAIZEN_GATES_RATE": "20", "KAIZEN_GATES_P99_MS": "5000", "KAIZEN_GATES_LOAD_SECONDS": "0.5",
}  # fmt: skip


class Example(NamedTuple):
    """One thing to do, and what is printed then; ``shown`` None: the page does not say."""

    line: int
    kind: str  # shell, run, save
    text: str
    shown: str | None


def examples(text: str) -> list[Example]:
    """Return the examples of a page in order."""
    found: list[Example] = []
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 2
        if block[1] == "python":
            name = re.match(r"# (\w+\.py)\n", block[2])
            found.append(Example(line, "save" if name else "run", block[2], None))
        elif block[1] == "console":
            found += _commands(block[2], line)
    return found


def _commands(block: str, line: int) -> list[Example]:
    if not re.search(r"^\$ ", block, re.MULTILINE):
        return [Example(line + place, "shell", typed, None) for place, typed in enumerate(block.splitlines()) if typed.strip()]
    found: list[Example] = []
    for place, said in enumerate(block.splitlines()):
        if said.startswith("$ "):
            found.append(Example(line + place, "shell", said[2:], ""))
        elif (said == ">" or said.startswith("> ")) and found and not found[-1].shown:
            found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{said[2:]}")
        else:
            assert found, f"line {line + place}: output before any command"
            found[-1] = found[-1]._replace(shown=f"{found[-1].shown}{said}\n")
    return found


def matches(shown: str, printed: str) -> bool:
    """Say whether what was printed is what the page shows."""
    pattern = re.escape(_calm(shown)).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, _calm(printed), re.DOTALL) is not None


def _calm(text: str) -> str:
    return "\n".join(re.sub(r"[ \t]+", " ", line).rstrip() for line in text.strip().splitlines())


class Reader:
    """Somebody who types a page's examples into a shell. Use as a context manager: it leaves no process behind."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.ports = dict(zip(("8080", "8081", "9000", "9001"), map(str, _free_ports(4)), strict=True))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAIZEN_", "GIT_", "PYTEST_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ports = {"KAIZEN_SERVE_PORT": self.ports["8080"], "KAIZEN_CONSOLE_PORT": self.ports["8081"]}
        self.environment = {**kept, **ENVIRONMENT, **ports, "HOME": str(home), "PATH": path}
        self._aside = Path(tempfile.mkdtemp(dir=home))
        self._beside: list[subprocess.Popen[bytes]] = []
        self._shell = subprocess.Popen(["sh"], cwd=folder, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.kill()
        self._shell.communicate()
        while self._beside:
            self._stop()

    def follow(self, text: str, *, leave_out: tuple[str, ...] = ()) -> None:
        """Do what a page says, and assert that what it shows comes out."""
        steps = [step for step in examples(text) if not step.text.startswith(leave_out or "\0")]
        for step, after in zip(steps, [*steps[1:], None], strict=True):
            self._do(step, fails=after is not None and after.text == "echo $?")

    def _do(self, step: Example, *, fails: bool) -> None:
        text = self._local(step.text)
        if step.kind == "save":
            self._type(f"cat > {step.text.split()[1]} <<'END_OF_FILE'\n{text}END_OF_FILE")
            return
        if step.kind == "run":
            text = f"python - <<'END_OF_FILE'\n{text}END_OF_FILE"
        shown = None if step.shown is None else self._local(step.shown)
        beside = step.kind == "shell" and _BESIDE.match(text)
        code, out, err = self._start(text) if beside else self._type(text)
        for _again in range(30):
            if _BUSY not in err:  # the loop of `kaizen up` looks just now; a reader would repeat it as well
                break
            time.sleep(1)
            code, out, err = self._type(text)
        told = f"line {step.line}: {text}\nexit code {code}, printed:\n{out}{err}"
        assert code == 0 or fails or (shown or "").startswith("error:"), told
        if shown is None:
            return
        if beside and shown.rstrip().endswith("^C"):
            shown = shown.rstrip().removesuffix("^C")
            self._stop()
        assert any(matches(shown, printed) for printed in (out, err, err + out)), f"{told}\nbut the page shows:\n{shown}"

    def _local(self, text: str) -> str:
        return _PORTS.sub(lambda port: self.ports[port[0]], text)

    def _type(self, command: str) -> tuple[int, str, str]:
        """Run a command in the shell, which keeps its folder and variables."""
        out, err = self._aside / "out", self._aside / "err"
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        told = f">{shlex.quote(str(out))} 2>{shlex.quote(str(err))}"
        self._shell.stdin.write(f"{{\n{command}\n}} {told} </dev/null\ncode=$?; echo $code; (exit $code)\n")
        self._shell.stdin.flush()
        answered, _, _ = select.select([self._shell.stdout], [], [], PATIENCE_S)
        code = self._shell.stdout.readline() if answered else ""
        assert code, f"the shell {'ended' if answered else f'said nothing for {PATIENCE_S} s'} at: {command}\n{err.read_text()}"
        return int(code), out.read_text(), err.read_text()

    def _start(self, command: str) -> tuple[int, str, str]:
        """Run a command beside the shell until it listens."""
        here = self._type("pwd")[1].strip()
        number = len(list(self._aside.glob("beside-*")))
        out, err = self._aside / f"beside-{number}.out", self._aside / f"beside-{number}.err"
        with out.open("wb") as said, err.open("wb") as told:
            words = ["sh", "-c", f"exec env {command}"]
            process = subprocess.Popen(words, cwd=here, env=self.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=told)
        self._beside.append(process)
        while _LISTENS not in out.read_text() and process.poll() is None:
            time.sleep(0.05)
        if process.poll() is not None:
            self._beside.remove(process)
        return process.poll() or 0, out.read_text(), err.read_text()

    def _stop(self) -> None:
        process = self._beside.pop()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
