#!/usr/bin/env python
"""The toy project's commands."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "toy.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
