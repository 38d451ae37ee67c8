"""One provider call, however many ask: counts and times over real processes, servers and a provider.

`scene` is one project with its provider, tiers, ledger and processes, and `crew` is such a process. `crowds`,
`leaders`, `outages`, `lives`, `budgets` and `nights` bring things about and say what came of it as figures; `parts` are
their names, and `picture` is the picture. Counts must hold everywhere; times belong to a machine and a moment.
"""
