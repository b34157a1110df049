"""Names of shards, and the stored index."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byol_ext.tar_shards import expand_braces, shard_paths, stored_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a-000.tar", "a-001.tar", "b[1].tar", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(*patterns: str) -> list[str]:
    return [path.name for path in shard_paths(patterns)]


def test_paths_folders_braces_and_globs(folder):
    assert names(str(folder)) == ["a-000.tar", "a-001.tar", "b[1].tar"]
    assert names(f"{folder}/a-{{000..001}}.tar") == ["a-000.tar", "a-001.tar"]
    assert names(f"{folder}/a-*.tar") == ["a-000.tar", "a-001.tar"]
    assert names(f"{folder}/b[1].tar") == ["b[1].tar"]
    with pytest.raises(FileNotFoundError, match=r"1 of 3 shards do not exist.*a-002"):
        names(f"{folder}/a-{{000..002}}.tar")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        names(f"{folder}/c-*.tar")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        names(f"{folder}/empty")


@given(first=st.integers(0, 999), count=st.integers(1, 30), width=st.integers(1, 6))
def test_brace_range(first, count, width):
    low, high = str(first).zfill(width), str(first + count - 1).zfill(width)
    names = expand_braces(f"a-{{{low}..{high}}}.tar")
    assert names == [f"a-{str(first + i).zfill(width)}.tar" for i in range(count)]


def test_braces_side_by_side():
    assert expand_braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]


@pytest.mark.parametrize("pattern", ["{1..", "a}", "{3..1}", "{a..b}", "{a}", "{1..x}", "{0..9999999}"])
def test_malformed_braces(pattern):
    with pytest.raises(ValueError, match=r"brace|range|expected"):
        expand_braces(pattern)


def test_an_index_is_made_once_for_a_version_and_a_state_of_the_file(folder):
    made = []

    def scan(path: Path) -> dict[str, list[int]]:
        made.append(path)
        return {"places": [len(made)]}

    shard = folder / "a-000.tar"
    for _ in range(2):
        assert stored_index(shard, scan, version="1") == {"places": [1]}
    assert stored_index(shard, scan, version="2") == {"places": [2]}
    shard.write_bytes(b"longer")
    assert stored_index(shard, scan, version="2") == {"places": [3]}
    os.utime(shard, ns=(1, 1))
    assert stored_index(shard, scan, version="2") == {"places": [4]}
    assert stored_index(shard, scan, version="2", cache_dir=folder / "elsewhere") == {"places": [5]}
    assert len(list((folder / "elsewhere").iterdir())) == 1


def test_an_index_that_cannot_be_read_or_stored_is_made_again(folder, caplog):
    shard = folder / "a-000.tar"
    index = folder / ".byol_ext_index"
    index.mkdir()
    (index / "a-000.tar.json").write_text("{broken")
    assert stored_index(shard, lambda _: {"n": 1}, version="1") == {"n": 1}
    blocked = folder / "blocked"
    blocked.write_text("a file, not a folder")
    assert stored_index(shard, lambda _: {"n": 2}, version="1", cache_dir=blocked) == {"n": 2}
    assert "cannot store the index" in caplog.text
