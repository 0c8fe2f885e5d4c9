import numpy as np
import pytest
import torch

from tests.tiny_models import tiny_policy
from training.randomised import losing_layers, spearman


def test_rank_correlation_by_hand():
    # ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * 2 / (4 * 15) = 0.8
    assert spearman(np.array([[1, 2], [3, 4]]), np.array([[10, 30], [20, 400]])) == pytest.approx(0.8)
    # ranks 1.5 1.5 3 and 1 2 3: centred (-.5 -.5 1) and (-1 0 1): 1.5 / sqrt(1.5 * 2)
    assert spearman(np.array([0, 0, 9]), np.array([1, 2, 3])) == pytest.approx(1.5 / np.sqrt(3))
    assert spearman(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    assert spearman(np.zeros(3), np.array([1, 2, 3])) is None
    with pytest.raises(ValueError, match="shapes"):
        spearman(np.zeros((2, 3)), np.zeros((3, 2)))


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_lost_from_the_head_down_and_the_policy_keeps_its_own(tied):
    policy = tiny_policy(seed=2, tie_word_embeddings=tied)
    before = {k: v.clone() for k, v in policy.model.state_dict().items()}
    layers = policy.model.config.text_config.num_hidden_layers
    lost_at = {}
    for depth, lost in losing_layers(policy):
        for name, tensor in lost.model.state_dict().items():
            old = before[name]
            if not torch.equal(tensor, old):
                lost_at.setdefault(name, depth)
                assert torch.equal(tensor.flatten().sort().values, old.flatten().sort().values), name
    assert lost_at["lm_head.weight"] == "head"
    for index in range(layers):
        of = {n: d for n, d in lost_at.items() if f"language_model.layers.{index}." in n}
        assert any("self_attn.q_proj.weight" in n for n in of) and any("mlp" in n for n in of)
        assert set(of.values()) == {f"layer_{index}"}
    assert not any("visual" in n or "embed_tokens" in n for n in lost_at)
    for name, tensor in policy.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    again = [p.model.lm_head.weight.clone() for _, p in losing_layers(policy)]
    assert torch.equal(again[0], next(iter(losing_layers(policy)))[1].model.lm_head.weight)
