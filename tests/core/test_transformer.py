import pytest
import torch
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.transformer import Transformer, attend_on_cpu, rotary_angles, rotate


def trunk(**settings):
    torch.manual_seed(0)
    made = Transformer(small(Config(), width=3), inputs=1, **settings).eval()
    for layer in made.layers:
        torch.nn.init.normal_(layer.convolution.weight, std=0.3)
    return made


def test_rotary_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 12, 8)
    angles = rotary_angles(12, 8, q.device)
    scores = rotate(q, angles) @ rotate(k, angles).transpose(-1, -2)
    for distance in range(-5, 6):
        diagonal = scores[0, 0].diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rotate(q, angles).norm(dim=-1), q.norm(dim=-1))


def test_attention_on_a_processor_is_torchs():
    q, k, v = torch.randn(3, 2, 4, 7, 8)
    attended = torch.rand(2, 1, 7, 7) < 0.7
    attended[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attended)
    torch.testing.assert_close(attend_on_cpu(q, k, v, attended), expected)


@pytest.mark.parametrize("causal", [False, True])
def test_a_position_sees_all_others_or_only_those_before_it(causal):
    model, x = trunk(causal=causal), torch.randn(2, 6, 16)
    mask = torch.ones(2, 6, dtype=torch.bool)
    before = model(x, None, mask)
    for place in range(6):
        changed = x.clone()
        changed[:, place] += 1
        differs = (model(changed, None, mask) - before).abs().amax(-1) > 1e-5
        assert (differs == (torch.arange(6) >= place)).all() if causal else differs.all()


def test_padding_is_not_seen():
    model, x = trunk(), torch.randn(2, 6, 16)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    before = model(x, None, mask)
    changed = torch.where(mask[..., None], x, x + 9)
    torch.testing.assert_close(model(changed, None, mask)[mask], before[mask])
    torch.testing.assert_close(model(x[1:, :4], None, mask[1:, :4]), before[1:, :4])


def test_a_level_is_told_once_it_is_learned():
    model, x = trunk(told_level=True), torch.randn(2, 6, 16)
    mask, level = torch.ones(2, 6, dtype=torch.bool), torch.tensor([[-1.0], [2.0]])
    torch.testing.assert_close(model(x, level, mask), model(x, level + 3, mask))  # at first it is ignored
    torch.nn.init.normal_(model.film.out.weight, std=0.1)
    found = model(x, level, mask)
    assert not torch.allclose(found, model(x, level + 3, mask))
    torch.testing.assert_close(found, model(x, level.expand(2, 6), mask))
