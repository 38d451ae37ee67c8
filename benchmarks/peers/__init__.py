"""A hit beside those of other caches, each in an environment of its own: ``make bench-peers``.

    roster        who takes part, in which group, in which environment
    cases         the small and the large call, the same for all
    entrants      one module per environment: the calls that are timed, as that project's own pages write them
    worker        a process that makes one entrant's calls when it is told to, over lines of JSON
    environments  virtual environments with pinned versions, kept under ``var/peers``
    racing        workers, the provider they call, and the rounds
    figures       medians, ratios and tables; nothing else
    plot          the picture, drawn in an environment that has matplotlib

All calls go to the sandbox provider on loopback; workers have no way out. It counts its requests, so a hit that was
none is seen.
"""
