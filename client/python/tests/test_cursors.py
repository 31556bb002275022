"""Cursor stores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seriatim import CursorStore, CursorStoreError, FileCursorStore, MemoryCursorStore


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_what_was_saved_last_is_loaded(tmp_path: Path, kind: str) -> None:
    store: CursorStore = FileCursorStore(tmp_path / "cursor") if kind == "file" else MemoryCursorStore()
    assert isinstance(store, CursorStore)
    assert store.load() is None
    for cursor in (1, (1 << 53) - 1, 7):
        store.save(cursor)
        assert store.load() == cursor
    for wrong in (0, -1, 1 << 53):
        with pytest.raises(ValueError, match="seq"):
            store.save(wrong)
    assert store.load() == 7


def test_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    FileCursorStore(tmp_path / "cursor").save(7)
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


def test_a_crash_before_the_new_file_is_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileCursorStore(tmp_path / "cursor")
    store.save(7)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(CursorStoreError) as failed:
                store.save(8)
        assert isinstance(failed.value.__cause__, OSError)
        assert store.load() == 7
        assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "{",
        "null",
        '{"cursor": 7}',
        '{"version": 2, "cursor": 7}',
        '{"version": 1}',
        '{"version": 1, "cursor": 0}',
        '{"version": 1, "cursor": "7"}',
        '{"version": 1, "cursor": 1e99}',
        "x" * 5000,
    ],
)
def test_a_file_that_is_no_cursor_is_an_error_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cursor"
    path.write_text(text)
    with pytest.raises(CursorStoreError, match="is no cursor"):
        FileCursorStore(path).load()
    assert path.read_text() == text


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CursorStoreError):
        FileCursorStore(tmp_path / "nowhere" / "cursor").save(7)
    with pytest.raises(CursorStoreError):
        FileCursorStore(tmp_path).load()
