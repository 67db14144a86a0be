import hashlib
import json
import os

import pytest
import torch

from simple_diffusion_lm.corpus.sealing import sealed
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs import checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def saved(run, *steps):
    for step in steps:
        checkpoint.save(run, step, TENSORS, {"s": torch.ones(2) * step}, {"progress": {"step": step}})
    return run / "checkpoints" / f"step-{steps[-1]}"


def test_what_is_saved_comes_back(tmp_path):
    saved(tmp_path, 5)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.manifest["step"] == 5
    assert all(torch.equal(found.read(checkpoint.MODEL)[k], TENSORS[k]) for k in TENSORS)
    assert torch.equal(found.read(checkpoint.STATE)["s"], torch.full((2,), 5.0))


def test_the_newest_two_stay_and_nothing_temporary(tmp_path):
    saved(tmp_path, 5, 10, 100)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-10", "step-100"]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest(tmp_path) is None


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def put_a_pickle_under_a_new_seal(path):
    """What is not safetensors, but has the digest that the manifest names."""
    torch.save(TENSORS, path / checkpoint.MODEL)
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    content = (path / checkpoint.MODEL).read_bytes()
    manifest["sha256"][checkpoint.MODEL] = hashlib.sha256(content).hexdigest()
    (path / checkpoint.MANIFEST).write_text(json.dumps(sealed(manifest)))


DAMAGE = {
    "a pickle": put_a_pickle_under_a_new_seal,
    "flipped bit": lambda d: flip_a_bit(d / checkpoint.MODEL),
    "flipped bit in the state": lambda d: flip_a_bit(d / checkpoint.STATE),
    "cut": lambda d: os.truncate(d / checkpoint.MODEL, 20),
    "empty": lambda d: (d / checkpoint.MODEL).write_bytes(b""),
    "no model": lambda d: (d / checkpoint.MODEL).unlink(),
    "no manifest": lambda d: (d / checkpoint.MANIFEST).unlink(),
    "manifest not JSON": lambda d: (d / checkpoint.MANIFEST).write_text("{"),
    "manifest a list": lambda d: (d / checkpoint.MANIFEST).write_text("[]"),
    "manifest without digests": lambda d: (d / checkpoint.MANIFEST).write_text('{"step": 10}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_passed_over(damage, tmp_path, capsys):
    newest = saved(tmp_path, 5, 10)
    DAMAGE[damage](newest)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.manifest["step"] == 5
    assert str(newest) in capsys.readouterr().err


def test_files_follow_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        path = saved(tmp_path, 1)
    finally:
        os.umask(old)
    assert {(path / name).stat().st_mode & 0o777 for name in os.listdir(path)} == {0o644}


def test_a_failed_save_leaves_the_old_one_whole(tmp_path, monkeypatch):
    saved(tmp_path, 5)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(UserError, match="No space left"):
        saved(tmp_path, 10)
    monkeypatch.undo()
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.manifest["step"] == 5
    assert os.listdir(tmp_path / "checkpoints") == ["step-5"]


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    checkpoint.write_atomically(path, b"before")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_manifest_holds_only_json(tmp_path):
    path = saved(tmp_path, 5)
    assert json.loads((path / checkpoint.MANIFEST).read_text())["progress"] == {"step": 5}


def test_the_best_stays_as_well(tmp_path):
    for step, bound in ((1, 3.0), (2, 2.0), (3, 2.5), (4, 2.6), (5, 2.7)):
        about = {"progress": {"step": step}, "bound": bound, "bound_error": 0.6}
        checkpoint.save(tmp_path, step, TENSORS, {"s": torch.ones(2)}, about)
    names = set(os.listdir(tmp_path / "checkpoints"))
    assert names == {"step-2", "step-4", "step-5"}
    assert checkpoint.newest(tmp_path).manifest["step"] == 5
    assert checkpoint.to_use(tmp_path).manifest["step"] == 2
    named = checkpoint.newest(tmp_path / "checkpoints" / "step-2")
    assert named.manifest["step"] == 2
    assert checkpoint.run_of(named.path) == tmp_path


def test_what_was_not_measured_is_used_if_what_came_before_was_best(tmp_path):
    for step, bound in ((1, 3.0), (2, 2.0), (3, None)):
        about = {} if bound is None else {"bound": bound, "bound_error": 0.1}
        checkpoint.save(tmp_path, step, TENSORS, {"s": torch.ones(2)}, {"progress": {}, **about})
    assert checkpoint.to_use(tmp_path).manifest["step"] == 3


@pytest.mark.parametrize(("error", "used"), [(0.1, 1), (0.3, 2)])
def test_an_earlier_one_is_used_only_if_it_was_better_beyond_the_error(error, used, tmp_path):
    for step, bound in ((1, 2.0), (2, 2.2)):
        about = {"progress": {}, "bound": bound, "bound_error": error}
        checkpoint.save(tmp_path, step, TENSORS, {"s": torch.ones(2)}, about)
    assert checkpoint.to_use(tmp_path).manifest["step"] == used


def test_a_damaged_best_is_not_used(tmp_path):
    for step, bound in ((1, 2.0), (2, 3.0)):
        about = {"progress": {}, "bound": bound, "bound_error": 0.1}
        path = checkpoint.save(tmp_path, step, TENSORS, {"s": torch.ones(2)}, about)
    assert checkpoint.to_use(tmp_path).manifest["step"] == 1
    flip_a_bit(path.parent / "step-1" / checkpoint.MODEL)
    assert checkpoint.to_use(tmp_path).manifest["step"] == 2
    assert checkpoint.to_use(path).manifest["step"] == 2


def test_a_changed_manifest_is_noticed(tmp_path):
    newest = saved(tmp_path, 5, 10) / checkpoint.MANIFEST
    newest.write_text(newest.read_text().replace('"step": 10', '"step": 11'))
    assert checkpoint.newest(tmp_path).manifest["step"] == 5


def test_what_a_kill_left_is_cleared_away(tmp_path):
    (tmp_path / "checkpoints" / ".step-3.tmp").mkdir(parents=True)
    saved(tmp_path, 5)
    assert os.listdir(tmp_path / "checkpoints") == ["step-5"]


def test_what_is_saved_stays_beside_damaged_ones_of_later_steps(tmp_path):
    """A run that passed over these two is resumed from before them."""
    for path in (saved(tmp_path, 1500), saved(tmp_path, 2000)):
        flip_a_bit(path / checkpoint.MODEL)
    saved(tmp_path, 1000)
    assert checkpoint.newest(tmp_path).manifest["step"] == 1000
