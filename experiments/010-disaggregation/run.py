"""Write README.md (disaggregation_page.py has the work: mypy knows one module named `run`, and 001 has it)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # pages.py, which all experiments share

from disaggregation_page import main

if __name__ == "__main__":
    main()
