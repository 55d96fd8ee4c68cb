from __future__ import annotations

from tunesmith import checkpoints


def make(root, step, *, seal=True):
    folder = checkpoints.folder_of(root, step)
    folder.mkdir(parents=True)
    (folder / "adapter.bin").write_bytes(b"weights" * step)
    (folder / "state.json").write_text("{}")
    if seal:
        checkpoints.seal(folder, step)
    return folder


def test_the_newest_whole_checkpoint_is_found_by_number_not_by_name(tmp_path):
    for step in (9, 10, 100):
        make(tmp_path, step)
    assert checkpoints.newest_whole(tmp_path) == (tmp_path / "checkpoint-100", [])


def test_an_unfinished_checkpoint_is_set_aside_and_named(tmp_path):
    make(tmp_path, 4)
    make(tmp_path, 8, seal=False)
    newest, problems = checkpoints.newest_whole(tmp_path)
    assert newest == tmp_path / "checkpoint-4"
    assert len(problems) == 1
    assert problems[0].startswith("checkpoint-8 was set aside")
    assert (tmp_path / "checkpoint-8.damaged1").is_dir()


def test_a_flipped_byte_or_a_missing_file_makes_it_fall_back(tmp_path):
    make(tmp_path, 2)
    flipped = make(tmp_path, 4) / "adapter.bin"
    content = bytearray(flipped.read_bytes())
    content[3] ^= 1
    flipped.write_bytes(content)
    (make(tmp_path, 6) / "state.json").unlink()
    newest, problems = checkpoints.newest_whole(tmp_path)
    assert newest == tmp_path / "checkpoint-2"
    assert "missing" in problems[0]
    assert "changed" in problems[1]


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in (2, 4, 6, 8):
        make(tmp_path, step)
    checkpoints.prune(tmp_path, keep=2, protect=[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6", "checkpoint-8"]


def test_no_checkpoint_is_no_error(tmp_path):
    assert checkpoints.newest_whole(tmp_path / "nothing") == (None, [])
