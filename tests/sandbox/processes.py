"""Looking at processes from outside, and commands that can be interrupted."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def is_running(pid: int) -> bool:
    state = _fields(pid)[:1]
    return state not in ([], ["Z"])


def ends_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def session_members(pid: int) -> list[int]:
    """Processes that run in the session of process `pid`: it itself and all that it started, orphans too."""
    found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [each for each in found if is_running(each) and _fields(each)[3:4] == [str(pid)]]


def command(body: str, warnings: str = "error") -> list[str]:
    """A command that runs `body`, in which the sandbox's names are there."""
    head = """
        import sys, threading, time
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        from arc_seal.sandbox.worker import Limits, ProcessSettings
        from arc_seal.sandbox.process import ProcessExecutor
        from tests.sandbox import jobs
        def tell(progress):
            print(f"{progress.stage} {progress.step}\\n", end="", flush=True)  # whole lines, also from two threads
    """
    return [sys.executable, "-W", warnings, "-c", textwrap.dedent(head) + textwrap.dedent(body)]


def begun(body: str, warnings: str = "error") -> subprocess.Popen[str]:
    """The command, begun in a session and process group of its own."""
    return subprocess.Popen(
        command(body, warnings),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers_told(parent: subprocess.Popen[str], count: int) -> list[int]:
    """The processes of the first `count` jobs that say theirs, as `jobs.Call` does through `tell`."""
    assert parent.stdout is not None
    told = (int(line.split()[1]) for line in parent.stdout if line.startswith("predict"))
    return [next(told) for _ in range(count)]


def _fields(pid: int) -> list[str]:
    """State, parent, process group, session and so on; nothing when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
