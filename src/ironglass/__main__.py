"""``python -m ironglass``."""

from __future__ import annotations

from ironglass.cli.main import main

if __name__ == "__main__":
    main()
