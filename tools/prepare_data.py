#!/usr/bin/env python
"""``coviar prepare``, called as a file of a clone."""

from coviar_mocrop.commands import run_tool

if __name__ == "__main__":
    run_tool("prepare")
