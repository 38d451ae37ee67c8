"""Tests of ``llmcache.contrib`` beside the real libraries, each in an environment of its own: ``make test-neighbours``.

Instructor pins ``openai`` and ``jiter`` to versions that are older than those of everybody else.
"""
