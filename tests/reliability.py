"""The table of faults in docs/reliability.md: every row is checked by the test that injects the fault.

A test that finds another outcome fails and shows the row as it should be. With RELIABILITY_ROWS=FILE in the
environment, all rows are also appended to that file, to build the table from.
"""

import os
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"

HEAD = "| fault | the program | afterwards |"


def check(*cells):
    """Assert that the table has a row of these cells (fault, program, afterwards)."""
    row = f"| {' | '.join(cells)} |"
    if "RELIABILITY_ROWS" in os.environ:
        with open(os.environ["RELIABILITY_ROWS"], "a", encoding="utf-8") as file:
            file.write(row + "\n")
        return
    assert row in rows(), f"docs/reliability.md lacks the row\n{row}"


def rows():
    """The rows of the tables, one below each group's heading, without their heads."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [line for line in lines if line != HEAD and not line.startswith("| ---")]
