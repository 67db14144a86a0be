import pytest
import torch

from simple_diffusion_lm.core.embedding import NORMALISERS, TokenEmbedding, in_blocks

V, D = 23, 16


@pytest.mark.parametrize("name", NORMALISERS)
def test_normalised_rows_have_norm_sqrt_d(name):
    table = NORMALISERS[name](torch.randn(V, D))
    torch.testing.assert_close(table.norm(dim=-1), torch.full((V,), D**0.5), atol=1e-3, rtol=1e-3)


def test_a_certain_token_is_interpolated_to_itself_and_two_to_their_middle():
    embedding = TokenEmbedding(V, D, NORMALISERS["unit_scale"])
    logits = torch.full((2, V), -1e9)
    logits[0, 3] = logits[1, 4] = logits[1, 5] = 0.0
    both = embedding.interpolate(logits)
    torch.testing.assert_close(both[0], embedding(torch.tensor(3)))
    torch.testing.assert_close(both[1], embedding(torch.tensor([4, 5])).mean(0))


def test_products_in_blocks_are_the_products():
    rows, weight = torch.randn(70, 8), torch.randn(8, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = in_blocks(lambda x: x @ weight, rows)
        torch.testing.assert_close(found, rows @ weight)
