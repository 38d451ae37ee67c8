"""The demo: a log of real requests through ``llmcache.extract``, a provider on loopback, and a page to try it.

A run passes ``data`` (the log and the answers to expect), ``providers`` (who is asked; ``sandboxed`` has its settings),
``simulation`` (the made-up time that it is recorded at), ``replay`` (the threads), ``latencies`` (medians), ``ledger``
(what was spent and saved), ``models.DemoRun`` (what is kept of it), ``reports`` (the numbers, as the terminal and the
home page show them) and ``screens`` (the terminal).

Entries lie in memory over a Redis of the demo's own: ``tiers`` says where it listens, ``redis_server`` starts it for
the first command that uses it, and ``redis_keeper``, a process of its own, stops it after the last. ``accounts`` has
the admin that ``manage.py serve`` makes, ``secret_files`` what only this user may read, ``database`` whether there are
tables.

A text that a person types passes ``middleware``, ``forms``, ``views`` and ``answers`` (what came of it, in words).
``types`` has the response types, ``amounts`` writes numbers as people read them, ``options`` reads those of commands.
"""
