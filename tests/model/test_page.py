import torch
from small_models import denoiser

from simple_diffusion_lm.diffusion.loss import seeded
from simple_diffusion_lm.diffusion.sampler import SAMPLERS, Prediction
from simple_diffusion_lm.diffusion.schedule import FittedSchedule, Path
from simple_diffusion_lm.model.page import Page, level_along
from simple_diffusion_lm.model.slots import Settings, Slot, Vocabulary, batches_of

V, D = 23, 16
NONE = torch.zeros(V, dtype=torch.bool)


def page_of(lengths, given=()):
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
    return Page(denoiser(V).eval(), schedule, group, settings), group, schedule


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
    page.write(prediction, clean, Vocabulary(NONE, NONE, None))
    written = page.ids.clone()
    best = prediction.logits.argmax(-1)
    kept = {int(n): int(i) for n, i in zip(prediction.targets.all, best, strict=True)}
    assert all(written.flatten()[n] == kept[int(n)] for n in done.flatten().nonzero())
    assert (written[group.cond_mask] == 7).all()

    with torch.no_grad():
        after = page.denoise(x, level, torch.zeros_like(x))
        elsewhere = torch.where(done[..., None], x + 9.0, x)
        blind = page.denoise(elsewhere, level, torch.zeros_like(x))
    assert len(after.targets.all) == 9 - int(done.sum())
    torch.testing.assert_close(after.logits, blind.logits)
    other = Prediction(after.x0_hat, -after.logits, after.targets)
    page.write(other, clean, Vocabulary(NONE, NONE, None))
    assert torch.equal(page.ids, written)


def test_every_text_ends_with_the_last_token():
    page, group, schedule = page_of([6, 5])
    x = torch.randn(2, 6, D, generator=seeded(1))
    path = Path.of(group.uniform(), group.free, 0.0)
    with torch.no_grad():
        prediction = page.denoise(
            x, level_along(schedule, path, torch.tensor(0.5)), torch.zeros_like(x)
        )
    banned = NONE.clone()
    banned[3] = True
    page.write(prediction, path(torch.tensor(0.0)) == 0, Vocabulary(banned, NONE, 3))
    for _, ids in group.texts(page.ids):
        assert ids[-1] == 3
        assert not (ids[:-1] == 3).any()
