import torch
from small_models import small

from simple_diffusion_lm.diffusion.loss import seeded
from simple_diffusion_lm.diffusion.sampler import SAMPLERS
from simple_diffusion_lm.model.slots import Settings, Slot, Vocabulary
from simple_diffusion_lm.model.transformer import Past
from simple_diffusion_lm.training.objectives import OBJECTIVES
from simple_diffusion_lm.training.recipes import modern

V, B, L = 19, 3, 9


def network():
    """Untrained, but with nothing left at zero, so that every part matters."""
    torch.manual_seed(0)
    model = OBJECTIVES["autoregressive"](small(modern()), V)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def text():
    ids = torch.randint(V, (B, L), generator=seeded(1))
    return ids, torch.ones_like(ids, dtype=torch.bool)


def test_a_token_sees_those_before_it_and_no_other():
    model = network()
    ids, everywhere = text()
    before = model.predict(model.before(ids), everywhere)
    for i in range(L):
        changed = ids.clone()
        changed[:, i] = (changed[:, i] + 1) % V
        after = model.predict(model.before(changed), everywhere)
        torch.testing.assert_close(after[:, : i + 1], before[:, : i + 1])
        assert (after[:, i + 1 :] != before[:, i + 1 :]).flatten(1).any(1).all() or i == L - 1


def test_kept_keys_and_values_change_nothing():
    """Logits one position at a time, or two, or all at once, are the same."""
    model = network()
    ids, everywhere = text()
    whole = model.predict(model.before(ids), everywhere)
    before = model.before(ids)
    for stride in (1, 2):
        pasts = [Past() for _ in model.transformer.layers]
        parts = [
            model.predict(before[:, i : i + stride], everywhere[:, i : i + stride], pasts=pasts)
            for i in range(0, L, stride)
        ]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_padding_costs_nothing_and_changes_nothing():
    model = network()
    ids, everywhere = text()
    shorter = everywhere.clone()
    shorter[:, 6:] = False
    none = torch.zeros_like(everywhere)
    padded = model.bound(ids, shorter, none, torch.zeros(B), seeded(0))
    cut = model.bound(ids[:, :6], everywhere[:, :6], none[:, :6], torch.zeros(B), seeded(0))
    torch.testing.assert_close(padded.total, cut.total)
    assert (padded.tokens == 6).all()


def test_what_is_sampled_has_the_probability_that_is_claimed():
    """All texts of two tokens: their share among samples against exp(-bound)."""
    torch.manual_seed(0)
    vocab = 4
    model = OBJECTIVES["autoregressive"](small(modern()), vocab)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ids = torch.cartesian_prod(torch.arange(vocab), torch.arange(vocab))
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    bound = model.bound(ids, everywhere, ~everywhere, torch.zeros(len(ids)), seeded(0))
    probability = (-bound.total).exp()
    torch.testing.assert_close(probability.sum(), torch.tensor(1.0))
    free = torch.zeros(2, dtype=torch.bool)
    none = torch.zeros(vocab, dtype=torch.bool)
    slots = [Slot(free.long(), free, free, free, n, (0, n)) for n in range(4000)]
    settings = Settings(SAMPLERS["ancestral"], steps=1, temperature=1.0)
    lines = model.generate(slots, settings, Vocabulary(none, none, None), batch_size=500)
    counts = torch.zeros(vocab, vocab)
    for _, line in lines:
        counts[line[0], line[1]] += 1
    torch.testing.assert_close(counts.flatten() / 4000, probability, atol=0.03, rtol=0)


def test_a_line_ends_where_the_model_ends_it_and_at_the_longest_at_last():
    model = network()
    eos = 1
    banned = torch.zeros(V, dtype=torch.bool)
    banned[:4] = True
    free = torch.zeros(L, dtype=torch.bool)
    slots = [Slot(free.long(), free, free, free, n, (0, n)) for n in range(200)]
    settings = Settings(SAMPLERS["ancestral"], steps=1, temperature=1.0)
    ends = []
    for _, line in model.generate(slots, settings, Vocabulary(banned, free[:1].expand(V), eos)):
        words = line.tolist()
        assert eos in words
        end = words.index(eos)
        assert all(word >= 4 for word in words[:end])
        ends.append(end)
    assert max(ends) == L - 1
    assert min(ends) < 3


def test_the_loss_is_the_mean_over_real_tokens_that_are_not_given():
    model = network()
    ids = torch.randint(V, (B, L), generator=seeded(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, 5:] = False
    given = torch.zeros_like(mask)
    given[:, :2] = True
    loss = model.loss(ids, mask, given, torch.arange(B), seed=0, step=0)
    bound = model.bound(ids, mask, given, torch.zeros(B), seeded(0))
    torch.testing.assert_close(loss.total, bound.total.sum() / bound.tokens.sum())
    assert int(loss.tokens) == int((mask & ~given).sum())


def test_a_low_temperature_takes_the_most_probable():
    model = network()
    free = torch.zeros(L, dtype=torch.bool)
    slots = [Slot(free.long(), free, free, free, n, (0, n)) for n in range(50)]
    none = torch.zeros(V, dtype=torch.bool)

    def written(temperature):
        settings = Settings(SAMPLERS["ancestral"], steps=1, temperature=temperature)
        lines = model.generate(slots, settings, Vocabulary(none, none, None))
        return {tuple(line.tolist()) for _, line in lines}

    assert len(written(1e-4)) == 1
    assert len(written(1.0)) > 40
