import pytest
import torch
from small_models import denoiser, small

from simple_diffusion_lm.diffusion.loss import seeded
from simple_diffusion_lm.diffusion.sampler import SAMPLERS
from simple_diffusion_lm.diffusion.schedule import FittedSchedule, Path
from simple_diffusion_lm.model.page import Page, level_along
from simple_diffusion_lm.model.slots import Settings, Slot, Vocabulary, batches_of
from simple_diffusion_lm.training.objectives import OBJECTIVES
from simple_diffusion_lm.training.recipes import modern

V, D = 23, 16
NONE = torch.zeros(V, dtype=torch.bool)
ANYTHING = Vocabulary(NONE, NONE, None)


def page_of(lengths, given=(), vocabulary=ANYTHING):
    slots = []
    for number, length in enumerate(lengths):
        nowhere = torch.zeros(length, dtype=torch.bool)
        cond_mask = nowhere.clone()
        cond_mask[list(given)] = True
        slots.append(
            Slot(torch.full((length,), 7), cond_mask, nowhere, nowhere, number, (0, number))
        )
    (group,) = batches_of(slots, 8, torch.device("cpu"))
    torch.manual_seed(0)
    schedule = FittedSchedule(D, V)
    settings = Settings(SAMPLERS["ancestral"], steps=4, temperature=1.0)
    return (
        Page(denoiser(V).eval(), schedule, group, settings, vocabulary, draws=True),
        group,
        schedule,
    )


def test_what_is_written_is_given_from_then_on():
    page, group, schedule = page_of([6, 5], given=[1])
    path = Path.of(group.uniform(), group.free, 8.0)
    x = torch.randn(2, 6, D, generator=seeded(1))
    level = level_along(schedule, path, torch.tensor(0.5))
    with torch.no_grad():
        prediction = page.denoise(x, level, torch.zeros_like(x))
    assert len(prediction.targets.all) == int(group.free.sum()) == 9
    clean = path(torch.tensor(0.5)) == 0
    done = clean & group.free
    assert 0 < int(done.sum()) < 9
    page.write(prediction, clean)
    written = page.ids.clone()
    kept = {int(n): int(i) for n, i in zip(prediction.targets.all, prediction.ids, strict=True)}
    assert all(written.flatten()[n] == kept[int(n)] for n in done.flatten().nonzero())
    assert (written[group.cond_mask] == 7).all()

    with torch.no_grad():
        after = page.denoise(x, level, torch.zeros_like(x))
        elsewhere = torch.where(done[..., None], x + 9.0, x)
        blind = page.denoise(elsewhere, level, torch.zeros_like(x))
    assert len(after.targets.all) == 9 - int(done.sum())
    torch.testing.assert_close(after.logits, blind.logits)
    page.write(after._replace(ids=(after.ids + 1) % V), clean)
    assert torch.equal(page.ids, written)


def test_every_text_ends_with_the_last_token():
    banned = NONE.clone()
    banned[3] = True
    page, group, schedule = page_of([6, 5], vocabulary=Vocabulary(banned, NONE, 3))
    x = torch.randn(2, 6, D, generator=seeded(1))
    path = Path.of(group.uniform(), group.free, 0.0)
    with torch.no_grad():
        prediction = page.denoise(
            x, level_along(schedule, path, torch.tensor(0.5)), torch.zeros_like(x)
        )
    page.write(prediction, path(torch.tensor(0.0)) == 0)
    for _, ids in group.texts(page.ids):
        assert ids[-1] == 3
        assert not (ids[:-1] == 3).any()


@pytest.mark.parametrize("stagger", [0.5, 3.0])
def test_drawn_steps_are_right_for_tokens_by_themselves_however_long_they_are(stagger):
    """An untrained network is the exact denoiser of independent tokens (test_denoiser.py)."""
    torch.manual_seed(0)
    model = OBJECTIVES["continuous"](small(modern(), stagger=stagger), V).eval()
    counts = torch.arange(1, V + 1) ** 2
    model.start_from_counts(counts)
    nowhere = torch.zeros(4, dtype=torch.bool)
    slots = [Slot(nowhere.long(), nowhere, nowhere, nowhere, n, (1, n)) for n in range(1500)]
    share = counts / counts.sum()
    off = {}
    for sampler in ("ancestral", "ddpm"):
        settings = Settings(SAMPLERS[sampler], steps=5, temperature=1.0)
        ids = torch.stack([ids for _, ids in model.generate(slots, settings, ANYTHING)])
        found = torch.bincount(ids.flatten(), minlength=V) / ids.numel()
        off[sampler] = ((found - share) / (share * (1 - share) / ids.numel()).sqrt()).abs().max()
    assert off["ancestral"] < 4
    assert off["ddpm"] > 6


@pytest.mark.parametrize("steps", [15, 60, 90])
def test_in_long_texts_too_no_token_is_drawn_before_its_left_neighbour_is_clean(steps):
    """At the stagger of training about two of sixty positions would move at once."""
    model = OBJECTIVES["continuous"](small(modern(), crop=64), V).eval()
    moving = []
    model.denoiser.register_forward_pre_hook(
        lambda module, args, named: moving.append(named["targets"].moving), with_kwargs=True
    )
    nowhere = torch.zeros(60, dtype=torch.bool)
    slot = Slot(nowhere.long(), nowhere, nowhere, nowhere, 0, (1, 0))
    settings = Settings(SAMPLERS["ancestral"], steps=steps, temperature=1.0)
    list(model.generate([slot], settings, ANYTHING))
    assert all((at.diff().abs() > 1).all() for at in moving)
    assert max(map(len, moving)) <= -(-60 // steps)


def test_long_texts_are_measured_along_the_path_that_they_are_written_along():
    model = OBJECTIVES["continuous"](small(modern(), crop=64), V)
    length_mask = torch.arange(60) < torch.tensor([[60], [20]])
    text, _ = model.text(length_mask.long(), length_mask, torch.zeros_like(length_mask))
    assert text.path.stagger.tolist() == [[59.0], [19.0]]
    for t in torch.linspace(0, 1, 500):
        moving = (text.path(t) > 0) & (text.path(t) < 1) & length_mask
        assert (moving.sum(1) <= 1).all()


def test_a_text_is_the_same_beside_a_longer_one():
    """How far apart in time its positions are is its own affair."""
    torch.manual_seed(0)
    model = OBJECTIVES["continuous"](small(modern(), crop=64), V).eval()

    def slot(length):
        nowhere = torch.zeros(length, dtype=torch.bool)
        return Slot(nowhere.long(), nowhere, nowhere, nowhere, length, (1, length))

    settings = Settings(SAMPLERS["ancestral"], steps=200, temperature=1.0)
    alone = dict(model.generate([slot(50)], settings, ANYTHING))
    together = dict(model.generate([slot(50), slot(60)], settings, ANYTHING))
    assert torch.equal(alone[50], together[50])
