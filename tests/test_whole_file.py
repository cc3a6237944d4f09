"""A file is there whole or not at all."""

import threading
from pathlib import Path

import pytest

from arc_seal.files import write_whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    write_whole(path, lambda file: file.write(b"old"))
    with pytest.raises(ZeroDivisionError):
        write_whole(path, lambda file: file.write(b"new") / 0)
    assert path.read_bytes() == b"old"
    write_whole(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert [each.name for each in path.parent.iterdir()] == ["file"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode  # readable by whom the user lets read


def test_many_may_write_one_file(tmp_path: Path) -> None:
    path, ready = tmp_path / "file", threading.Barrier(8)

    def write(letter: bytes) -> None:
        ready.wait(60)
        write_whole(path, lambda file: [file.write(letter) for _ in range(5000)])

    threads = [threading.Thread(target=write, args=(bytes([65 + number]),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = path.read_bytes()
    assert len(written) == 5000 and len(set(written)) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_where_none_can_be_written_the_reason_is_the_first_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        write_whole(tmp_path / "file" / "other", lambda file: None)
    assert caught.value.__context__ is None
