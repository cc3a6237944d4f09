"""Commands in processes that have loaded the libraries already: they begin in no time, to be killed by the dozen."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from tests.smoke import PATIENCE_S, ROOT, environment


class Forks:
    """Where such processes come from, one at a time, each the head of a process group."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self.server, self.pid = server, 0

    def start(self, folder: Path, name: str, *argv: str) -> None:
        """Start a command in a folder; what it says goes into the file `said` there."""
        assert self.server.stdin is not None
        print(json.dumps([str(folder), name, argv]), file=self.server.stdin, flush=True)
        self.pid = int(self._line())

    def has_ended(self) -> bool:
        """Whether the command has ended by itself."""
        return bool(select.select([self.server.stdout], [], [], 0)[0])

    def wait(self, until: Callable[[], bool]) -> bool:
        """Wait for a moment in the command's life; whether it came before the end."""
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline, "it hangs"
            if self.has_ended():
                return until()
            time.sleep(0.002)
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the command and its workers."""
        os.killpg(self.pid, number)

    def code(self) -> int:
        """How the command ended, once it has: its exit code, or less than 0 for a signal."""
        return os.waitstatus_to_exitcode(int(self._line()))

    def _line(self) -> str:
        assert self.server.stdout is not None
        assert select.select([self.server.stdout], [], [], PATIENCE_S)[0], "it hangs"
        return self.server.stdout.readline()


@contextmanager
def forks() -> Iterator[Forks]:
    """A process that waits for commands."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.forked"], cwd=ROOT, env=environment(), bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        yield Forks(server)
        assert server.stdin is not None
        server.stdin.close()


def serve() -> int:
    """Do every command of standard input in a process of its own: say its number, then its status."""
    for module in ("torch", "peft", "transformers", "llguidance", "arc_seal.config", "arc_seal.inner_loop.adapt"):
        import_module(module)
    import_module("arc_seal.outer_loop.restem")
    import_module("arc_seal.models.scripted")
    while line := sys.stdin.readline():
        folder, name, argv = json.loads(line)
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            os.chdir(folder)
            said, nothing = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.open(os.devnull, os.O_RDONLY)
            for number, target in ((nothing, 0), (said, 1), (said, 2)):
                os.dup2(number, target)
            return int(import_module(f"arc_seal.{name}").main(argv))
        with suppress(OSError):  # it has done so itself
            os.setpgid(pid, pid)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(serve())
