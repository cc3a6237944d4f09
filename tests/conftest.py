"""Settings of the whole test run."""

from hypothesis import settings

# No deadline: the time of one example says little on a busy two-core machine.
settings.register_profile("arc-seal", deadline=None, max_examples=50)
settings.load_profile("arc-seal")
