"""Typed data from language models, paid for once."""

__version__ = "0.1.0"
