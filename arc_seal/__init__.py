"""arc-seal: an ARC few-shot reasoning agent that teaches itself how to learn."""

__version__ = "0.1.0"
