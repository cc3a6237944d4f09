"""What the tests of pretraining share."""

import importlib.util

import pytest

from arc_seal.pretraining import re_arc

needs_re_arc = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None,
    reason=f"needs pip install --no-deps {re_arc.PACKAGE}=={re_arc.VERSION}",
)

TASK_IDS = ("44f52bb0", "a5f85a15", "d0f5fe59")
"""Tasks whose generators are quick."""
