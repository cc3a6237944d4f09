"""Settings of the whole test run."""

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.smoke import Finished

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the processors

# No deadline: the time of one example says little on a busy two-core machine.
# The same examples each time, so that what passes here passes in CI; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("same", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# A shell that starts the tests in the background has them ignore SIGINT, and so would the commands that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> "Finished":
    """A training run that nothing has disturbed, to be looked at and copied, not to be changed."""
    from tests.smoke import LABEL_FREE, Finished, run  # most tests do without

    folder, started = tmp_path_factory.mktemp("smoke"), time.monotonic()
    done = run(folder, "train", *LABEL_FREE)
    return Finished(folder / "runs" / "restem" / "smoke-seed0", done, time.monotonic() - started)
