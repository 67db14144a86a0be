import dataclasses
import shutil
from itertools import count, islice

import pytest
import torch
from small_models import denoiser, small, tensors

from simple_diffusion_lm.cli.training import glance
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.data import Batches
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import Group, Sampling
from simple_diffusion_lm.core.loss import FOR_PREVIOUS_PASS, Draws, previous_prediction
from simple_diffusion_lm.core.noise import make_keys, normal, uniform
from simple_diffusion_lm.core.train import Diffusion, State, train as train_steps
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs import checkpoint, distil as distillation
from simple_diffusion_lm.runs.distil import distil, student_loss
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


def state_of(student):
    """A student's, without dropout, as `distil` has it."""
    config = dataclasses.replace(student.config, dropout=0.0, passes=4)
    return State(Diffusion(config, V), {})


def draws_for(batch, chosen):
    """Those by which a student of 4 passes learns this one."""
    keys = (make_keys(number) for number in count())
    key = next(key for key in keys if int(uniform(make_keys(key, 2), 1).item() * 4) == chosen)
    return Draws((0.1 + batch.place) % 1, make_keys(7, batch.number), key)


@pytest.mark.parametrize("chosen", range(4))
def test_what_learns_is_a_pass_of_its_own_writing(chosen):
    """Exactly: the logits of each pass are those of the sampler, with the same noise."""
    state, batch, said = state_of(network()), texts(), []
    loss = student_loss(network(), None, state)
    keys = make_keys(make_keys(7, batch.number), 2)
    sampling = Sampling(4, temperature=1.0)
    frames = [frame.logits for frame in state.model.sample(Group(batch, keys), sampling)]
    state.model.register_forward_hook(lambda module, args, out: said.append(out.logits))
    loss(batch, draws_for(batch, chosen))
    assert len(said) == chosen + 1
    torch.testing.assert_close(said, frames[: chosen + 1])
    assert [logits.requires_grad for logits in said] == [False] * chosen + [True]


def test_a_student_that_writes_as_its_teacher_would_stays_as_it_is():
    """While critic and teacher are the same network, nothing moves the student: only the critic learns."""
    state, batch = state_of(network()), texts()
    loss = student_loss(teacher := network(), None, state)
    found = loss(batch, draws_for(batch, 2))
    found.total.backward()
    grads = {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}
    assert all((grad == 0).all() for name, grad in grads.items() if not name.startswith("critic."))
    assert grads["critic.head.weight"].abs().sum() > 0
    assert not {"embedding.weight", "critic.embedding.weight"} & set(grads)
    assert all(p.grad is None for p in teacher.parameters())
    assert (found.ce.abs() < 1e-5).all()
    assert found.correct.all()
    assert found.tokens == batch.free.sum() == len(found.ce)


@pytest.mark.parametrize("bias", [2.0, -2.0])
def test_what_is_written_too_often_becomes_rarer(bias):
    """A student that prefers a token, or avoids it, and a critic that knows: the gradient is against it."""
    teacher, batch, liked = network(), texts(), V - 1  # the most frequent
    torch.nn.init.zeros_(teacher.head.weight)  # it knows how frequent tokens are, and no more
    state = state_of(teacher)
    loss = student_loss(teacher, None, state)
    with torch.no_grad():
        state.model.head.bias[liked] += bias
        state.model.critic.head.bias[liked] += bias
    for chosen in range(4):
        loss(batch, draws_for(batch, chosen)).total.backward()
    grad = state.model.head.bias.grad
    assert grad[liked] * bias > 0  # and a step goes the other way


def test_the_end_of_a_text_is_given_as_in_writing():
    state, batch = state_of(network()), texts()
    end = int(batch.ids[0, 6])
    ends = batch.length_mask & (batch.ids == end)
    found = student_loss(network(), end, state)(batch, draws_for(batch, 0))
    assert found.tokens == (batch.free & ~ends).sum() < batch.free.sum()


def test_a_student_is_a_run_like_any_other(toy_data, toy_run, tmp_path):
    run, pages = tmp_path / "student", []

    def look(run):
        glance(run)
        pages.append((run / "report.html").read_text())

    few = {**SMALL, "steps": 4, "save_every": 2, "validate_every": 2, "passes": 3}
    distil(toy_run, toy_data, run, few, quiet=True, after_validation=look)
    assert "under way" in pages[0]
    assert "its critic" in pages[0]
    model = DiffusionLM.from_pretrained(run)
    assert torch.equal(
        model.model.embedding.weight, DiffusionLM.from_pretrained(toy_run).model.embedding.weight
    )
    frames = []
    (line,) = model.generate(1, watch=lambda batch, frame: frames.append(frame))
    assert len(frames) == 3  # the passes that it learned
    assert line == model.generate(1, steps=3)[0] != model.generate(1, steps=8)[0]
    assert "the" in model.infill("the ___")[0]
    whole = tensors(run)
    shutil.rmtree(checkpoint.newest(run).path)
    distil(toy_run, toy_data, run, few, quiet=True)
    assert all(torch.equal(whole[name], tensor) for name, tensor in tensors(run).items())


def test_a_student_learns_to_write_as_its_teacher_does(toy_data):
    """One that prefers a token, which its critic has to find out: after some steps it does so less."""
    config = small(Config(), passes=2, steps=60, warmup_steps=5, learning_rate=1.2e-2, dropout=0.0, seed=1)
    counts = torch.from_numpy(toy_data.train.counts(len(toy_data.tokenizer)))
    teacher, state = State.of(config, counts).model, State.of(config, counts)
    batches = Batches(config, toy_data.train, toy_data.tokenizer.pad_id)
    loss, liked = student_loss(teacher, None, state), int(counts.argmax())
    with torch.no_grad():
        state.model.head.bias[liked] += 2.0

    def share(model):
        batch = batches.batch(0, batches.order(0)[0])
        *_, frame = model.sample(Group(batch, make_keys(0, batch.number)), Sampling(2, temperature=1.0))
        return frame.logits.softmax(-1)[:, liked].mean().item()

    before, wanted = share(state.model), share(teacher)
    paces = {name: {g["pace"] for g in each.param_groups} for name, each in state.optimizers.items()}
    assert paces == {"muon": {0.15}, "adamw": {0.15}, "critic_muon": {1.5}, "critic_adamw": {1.5}}
    for _ in train_steps(config, state, batches, loss):
        pass
    assert before > 2 * wanted
    assert abs(share(state.model) - wanted) < 0.3 * (before - wanted)


def test_its_critic_stays_with_its_run(toy_data, toy_run, tmp_path):
    distil(toy_run, toy_data, tmp_path / "student", {**SMALL, "steps": 1}, quiet=True)
    critic = {name for name in tensors(tmp_path / "student") if "model critic." in name}
    student = DiffusionLM.from_pretrained(tmp_path / "student").model.state_dict()
    assert critic == {f"model critic.{name}" for name in student}


def test_a_student_has_the_network_of_its_teacher_and_no_student(toy_data, toy_run, tmp_path):
    with pytest.raises(UserError, match="set none of it"):
        distil(toy_run, toy_data, tmp_path / "student", {"steps": 1, "layers": 3})
    with pytest.raises(UserError, match="in self_cond_rate: set none of it"):
        distil(toy_run, toy_data, tmp_path / "student", {"steps": 1, "self_cond_rate": 0.5})
    with pytest.raises(UserError, match="normaliser, bell_times: set none of it"):  # of the same shapes
        distil(
            toy_run,
            toy_data,
            tmp_path / "student",
            {"steps": 1, "normaliser": "layer_norm", "bell_times": False, "schedule": "gumbel"},
        )
    with pytest.raises(UserError, match="accumulate must be at least 1"):
        distil(toy_run, toy_data, tmp_path / "student", {"steps": 1, "accumulate": 0})
    assert not (tmp_path / "student").exists()
    distil(toy_run, toy_data, tmp_path / "student", {**SMALL, "steps": 1, "samples": 0}, quiet=True)
    with pytest.raises(UserError, match="is a student"):
        distil(tmp_path / "student", toy_data, tmp_path / "another", {"steps": 1})
    assert not (tmp_path / "another").exists()


def test_a_student_keeps_its_teacher(toy_data, tmp_path):
    """Trained further it would be another one, and the student would be of two."""
    settings = {**SMALL, "steps": 1, "samples": 0}
    longer = small(Config(), steps=2, samples=0)
    run_training(dataclasses.replace(longer, steps=1), toy_data, tmp_path / "run", quiet=True)
    distil(tmp_path / "run", toy_data, tmp_path / "student", settings, quiet=True)
    distil(tmp_path / "run", toy_data, tmp_path / "student", {**settings, "steps": 2}, quiet=True)
    run_training(longer, toy_data, tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="trained with another teacher"):
        distil(tmp_path / "run", toy_data, tmp_path / "student", {**settings, "steps": 3}, quiet=True)


@pytest.mark.parametrize("stream", [False, True])
def test_the_end_is_given_where_texts_have_one(stream, toy_data, toy_run, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(distillation, "student_loss", lambda teacher, end, state: given.append(end))
    monkeypatch.setattr(distillation, "run_training", lambda *args, loss_of, teacher: loss_of(None))
    distil(toy_run, toy_data._replace(stream=stream), tmp_path, {"steps": 1})
    assert given == [None if stream else toy_data.tokenizer.eos_id]


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


@pytest.mark.parametrize("chosen", range(4))
def test_what_was_written_is_judged_at_a_level_that_the_next_pass_sees_or_above(chosen):
    """Exactly: what the teacher says of it, with other noise than all before, and self-conditioned."""
    state, batch, teacher, seen = state_of(network()), texts(), network(), []
    loss, draws = student_loss(teacher, None, state), draws_for(batch, chosen)
    writing = state.model.sample(Group(batch, make_keys(draws.keys, 2)), Sampling(4, temperature=1.0))
    *_, frame = islice(writing, chosen + 1)
    x0_hat, lowest = torch.zeros(B, L, 16), 1 - (chosen + 1) / 4
    t = lowest + (1 - lowest) * draws.t  # rounded as the loss rounds it
    x0_hat[batch.free] = state.model.embedding.interpolate(frame.logits)
    level, eps = state.model.schedule(t[:, None, None]), normal(make_keys(draws.keys, 3), L, 16)
    x_t = level.add_noise(x0_hat, eps)
    before = previous_prediction(teacher, batch, x_t, draws._replace(t=t))
    assert before.any()
    assert not torch.equal(eps, normal(make_keys(draws.keys, FOR_PREVIOUS_PASS), L, 16))
    expected = teacher(x_t, level, before, batch).logits
    teacher.register_forward_hook(lambda module, args, out: seen.append(out.logits))
    loss(batch, draws)
    torch.testing.assert_close(seen[-1], expected)
