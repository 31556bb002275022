"""The package as a whole: its generated code, its README, and the pages that it is held against."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from cluster import PATIENCE, Cluster
from page import ROOT, table

from seriatim import Code
from seriatim._frames import FRAME_BYTES_MAX
from seriatim.client import REQUESTS_MAX
from seriatim.entry import MESSAGE_BYTES_MAX, NAME_BYTES_MAX, SALT_BYTES_MAX
from seriatim.errors import Close

PACKAGE = ROOT / "client" / "python"


def test_the_generated_code_is_up_to_date() -> None:
    subprocess.run([PACKAGE / "generate", "--check"], check=True, timeout=300)


def test_the_codes_are_those_of_the_page() -> None:
    rows = table("protocol.md", "## Errors")
    assert {int(row[0]): row[1].strip("`") for row in rows} == {code.value: code.name for code in Code}
    closes = {int(row[4]) for row in rows}
    assert closes == {close.value for close in Close}


def test_the_limits_are_those_of_the_page() -> None:
    limits = {row[0]: int(row[1]) for row in table("protocol.md", "## Limits")}
    assert limits["frame"] == FRAME_BYTES_MAX
    assert limits["body of a message"] == MESSAGE_BYTES_MAX
    assert limits["salt"] == SALT_BYTES_MAX
    assert limits["name of a user, device or counter"] == NAME_BYTES_MAX
    assert limits["requests without an answer"] == REQUESTS_MAX


def test_every_case_of_conformance_has_a_test_and_every_number_a_case() -> None:
    text = (ROOT / "docs" / "conformance.md").read_text()
    cases = re.findall(r"^\| C-(\d{3}) \|", text, re.MULTILINE)
    assert len(cases) == len(set(cases)), "a number is used twice"
    tested = set()
    for path in (PACKAGE / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_c"):
                tested |= set(re.findall(r"c(\d{3})(?=_)", node.name))
    assert tested == set(cases)


def test_the_example_of_the_readme(cluster: Cluster, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert 5 <= len(example.splitlines()) <= 15
    program = tmp_path / "example.py"
    program.write_text(example)
    (tmp_path / "ca.pem").write_bytes(Path(cluster.ca).read_bytes())
    environment = {**os.environ, "GATEWAY": cluster.gateways[0], "TOKEN": cluster.token("readme")}
    places = []
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-W", "error", program],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        # Started again, it gets what it has not stored, and nothing twice.
        place, rest = ran.stdout.split(maxsplit=1)
        places.append(int(place))
        assert rest == "readme hello\n"
    assert 1 <= places[0] < places[1]
