"""The dashboard: an overview as a page, in an admin site and at an address of the project's own.

    figures       numbers as people read them
    charts        the geometry of the charts
    page          what the templates show, from an ``Overview``
    calculator    the form of ``estimate_savings``
    outage        a notice in place of a page, when the database cannot be reached
    views         the page and its JSON, for ``llmcache.urls``
    in_admin      both in an admin site

All numbers come from ``llmcache.money.overview``; nothing is added up here.
"""
