"""The tables of docs/protocol.md and docs/conformance.md, as the tests read them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def table(page: str, heading: str) -> list[list[str]]:
    """Rows of the tables of a section, without the heads."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    start = lines.index(heading)
    rows: list[list[str]] = []
    for line, behind in zip(lines[start + 1 :], [*lines[start + 2 :], ""], strict=True):
        if line.startswith("## "):
            break
        if line.startswith("|") and not behind.startswith("|---") and not line.startswith("|---"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def vectors() -> dict[str, bytes]:
    """What is in the tables of vectors, by its first column."""
    return {name: bytes.fromhex(value.strip("`")) for name, value in table("protocol.md", "## Vectors")}
