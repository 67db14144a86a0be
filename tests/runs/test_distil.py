import shutil
from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st
from small_models import denoiser, small, tensors

from simple_diffusion_lm.cli.training import glance
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.loss import Draws
from simple_diffusion_lm.core.noise import make_keys, normal
from simple_diffusion_lm.core.sampler import move, no_fresh_noise
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs import checkpoint
from simple_diffusion_lm.runs.distil import distil, mean_probabilities, student_loss
from simple_diffusion_lm.runs.log import read_metrics
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.writing.model import DiffusionLM, train

V, B, L = 23, 3, 7
SMALL = {"batch_tokens": 512, "samples": 1}


def network():
    torch.manual_seed(0)
    model = denoiser(V).eval()
    model.start_from_counts(torch.arange(1, V + 1))
    torch.nn.init.normal_(model.head.weight)
    return model


def texts():
    torch.manual_seed(1)
    length_mask = torch.arange(L) < torch.tensor([7, 6, 5])[:, None]
    cond_mask = torch.zeros(B, L, dtype=torch.bool)
    cond_mask[:, 1] = True
    number = torch.arange(B)
    return Batch(torch.randint(V, (B, L)), length_mask, cond_mask, number, number / B)


@given(st.integers(1, 6), st.floats(0.3, 1.0), st.floats(0.0, 0.9))
def test_one_pass_with_the_target_arrives_where_the_teacher_does(parts, start, share):
    """Exactly: the teacher's DDIM in `parts` passes, and a single one with the mean of its probabilities."""
    model, batch = network(), texts()
    times = torch.linspace(start, start * share, parts + 1)
    levels, free = [model.schedule(t.expand(B, 1, 1)) for t in times], batch.free
    x0 = model.embedding(batch.ids)
    x_t = levels[0].add_noise(x0, normal(make_keys(1, batch.number), L, x0.shape[-1]))
    with torch.no_grad():
        mean = mean_probabilities(model, x_t, levels, batch)
        arrived, x0_prev = x_t, torch.zeros_like(x_t)
        for now, nxt in pairwise([levels[0], *levels]):  # at the first level twice: self-conditioning
            logits = model(arrived, now, x0_prev, batch, 0.7).logits
            x0_prev = torch.zeros_like(x_t)
            x0_prev[free] = model.embedding.interpolate(logits)
            arrived = move(arrived, x0_prev, now, nxt, no_fresh_noise(now, nxt), x_t)
        x0_hat = torch.zeros_like(x_t)
        x0_hat[free] = mean @ model.embedding.table
        once = move(x_t, x0_hat, levels[0], levels[-1], torch.zeros(()), x_t)
    torch.testing.assert_close(once[free], arrived[free], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(mean.sum(-1), torch.ones(int(free.sum())))


def test_the_loss_is_a_divergence_and_the_teacher_stays_as_it_is():
    teacher, student, batch = network(), network(), texts()
    student.config = small(Config(), self_cond_rate=0.0)
    loss = student_loss(teacher, 4, student)
    for t in (0.0, 0.3, 0.6, 0.99):  # a pass each
        draws = Draws(torch.full((B,), t), make_keys(7, batch.number))
        found = loss(batch, draws)
        assert (found.ce > -1e-5).all()
        torch.testing.assert_close(found.total, found.ce.mean())
        assert found.tokens == batch.free.sum()
        found.total.backward()
    assert student.head.weight.grad.abs().sum() > 0
    assert student.embedding.weight.grad is None
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_is_a_run_like_any_other(toy_data, toy_run, tmp_path):
    run, pages = tmp_path / "student", []

    def look(run):
        glance(run)
        pages.append((run / "report.html").read_text())

    few = {**SMALL, "steps": 4, "save_every": 2, "validate_every": 2, "passes": 3}
    distil(toy_run, toy_data, run, few, quiet=True, after_validation=look)
    assert "under way" in pages[0]
    model = DiffusionLM.from_pretrained(run)
    assert torch.equal(
        model.model.embedding.weight, DiffusionLM.from_pretrained(toy_run).model.embedding.weight
    )
    frames = []
    (line,) = model.generate(1, watch=lambda batch, frame: frames.append(frame))
    assert len(frames) == 3  # the passes that it learned
    assert line == model.generate(1, steps=3, sampler="ddim")[0] != model.generate(1, steps=8)[0]
    assert "the" in model.infill("the ___")[0]
    whole = tensors(run)
    shutil.rmtree(checkpoint.newest(run).path)
    distil(toy_run, toy_data, run, few, quiet=True)
    assert all(torch.equal(whole[name], tensor) for name, tensor in tensors(run).items())


def test_what_is_taught_comes_closer(toy_data, toy_run, tmp_path):
    distil(toy_run, toy_data, tmp_path / "student", {**SMALL, "steps": 40, "passes": 16}, quiet=True)
    first, *_, last = [record["ce"] for record in read_metrics(tmp_path / "student", "train")]
    assert last < 0.8 * first


def test_what_has_no_noise_cannot_be_distilled(toy_data, tmp_path):
    run_training(
        small(Config(), objective="masked", steps=1, samples=0), toy_data, tmp_path / "run", quiet=True
    )
    with pytest.raises(UserError, match="only diffusion can be distilled"):
        distil(tmp_path / "run", toy_data, tmp_path / "student", {"steps": 1})
    assert not (tmp_path / "student").exists()


def test_passes_without_a_teacher_are_refused(toy_data, toy_text, tmp_path):
    """Wherever a run begins: in Python too, where nobody would notice that nothing was learned of them."""
    with pytest.raises(UserError, match="sdlm distil"):
        run_training(small(Config(), steps=1, passes=4), toy_data, tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="sdlm distil"):
        train(toy_text, tmp_path / "run", steps=1, passes=4, quiet=True)
    assert not (tmp_path / "run" / "config.json").exists()
