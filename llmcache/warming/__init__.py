"""Warming: asking for what will be asked, ahead of its use and within a budget; and telling later what that was worth.

texts      one thing to warm
sources    where texts come from: lists, querysets, misses, what is about to expire; ``registry``: a project's own
files      texts of JSON lines and CSV, over ``lines``: one line at a time, each within a bound
wanted     what a run asks: which type of which model, for whom
estimates  what a run would ask and cost, without asking
runs       a run from its preparation to its end
work       asking, in any number of processes: ``claims`` shares out the items, ``purse`` the budget, and ``crew``
           is the threads of one process
value      what a run was worth since
plans      runs that are made again and again
door       ``llmcache.warm``: all of it in one call
"""
