"""Settings of the whole test run."""

import signal

from hypothesis import settings

# No deadline: the time of one example says little on a busy two-core machine.
settings.register_profile("arc-seal", deadline=None, max_examples=50)
settings.load_profile("arc-seal")

# A shell that starts the tests in the background has them ignore SIGINT, and so would the commands that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
