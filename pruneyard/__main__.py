"""`python -m pruneyard` is the command line."""

from __future__ import annotations

from pruneyard.cli import main

if __name__ == "__main__":
    main()
