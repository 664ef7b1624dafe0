"""Every row of docs/differences.md names a test that exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST = re.compile(r"`(tests/\w+\.py)::(\w+)`")


def test_every_difference_has_a_test():
    text = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    rows = [row for row in rows if not row.startswith("| |")]
    assert len(rows) > 15
    for row in rows:
        found = TEST.findall(row)
        assert found, row
        for path, name in found:
            functions = {
                n.name for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.FunctionDef)
            }
            assert name in functions, f"{path} has no {name}"
