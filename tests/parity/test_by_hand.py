"""Every method on the network of tests/parity/two_layers.py, whose maps are worked out here on paper.

The target directions gamma * W_U in (x, y) are (2, 3) for `it` and (2, -3) for `red`. So a unit of value is worth,
for `it` and `red`: layer 1, head A 2 v0 and 2 v0, head B 3 v1 and -3 v1; layer 2, head A 3 v0 and -3 v0, head B
4 v1 and 4 v1. `it` is read at row 10 (`predictor`, rms 5/2) or 11 (`state`, rms 10/3), `red` at 11 or 12 (rms 13/6).
"""

import numpy as np
import pytest
import torch

from tests.parity.two_layers import IMAGE_VALUES, LENGTH, OWN_VALUES, X, Y, Z, two_layers, two_layers_inputs
from training.capture import capture
from training.methods import METHODS
from training.saliency import record_maps

# Norms are float32 in any model of this class: 6e-8 each, a few of them one after the other.
NEAR = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(scope="module")
def network():
    return two_layers()


def _signed(network, method, rows):
    told, given, start = two_layers_inputs(network)
    with (
        torch.set_grad_enabled(METHODS[method].needs_backward),
        record_maps(network, told, start, method, rows) as recorder,
    ):
        network.model(**given, use_cache=False)
    return recorder.signed[0].detach()


def per_cell(*values):
    return torch.tensor(values, dtype=torch.float64).view(2, 3)


# cot_rollout, predictor. The thoughts red, ball (keys 8, 9) are read at rows 7, 8, and M(i) is
# attn(row -> 8) attn(7 -> i) + attn(row -> 9) attn(8 -> i); shares are M times what the value of i is worth:
#   it, row 10
#     1A  1/4 * {i1: 1/2} + 1/4 * {i2: 1/2, i4: 1/4}    i1 1/8 * 4 = 1/2, i2 1/8 * 8 = 1, i4 1/16 * 12 = 3/4
#     1B  1/2 * {i5: 1/2}                               i5 1/4 * 18 = 9/2
#     2A  1/2 * {i5: 1/4, i6: 1/4}                      i5 0, i6 1/8 * 12 = 3/2
#     2B  1/2 * {i4: 1/4, i6: 1/4} + 1/4 * {i1: 1/2}    i4 1/8 * -8 = -1, i6 1/8 * 12 = 3/2, i1 1/8 * 4 = 1/2
#   red, row 11
#     1A  1/2 * {i1: 1/2}                               i1 1/4 * 4 = 1
#     1B  1/4 * {i5: 1/2} + 1/4 * {i1: 1/4, i3: 1/4}    i5 1/8 * -18 = -9/4, i1 1/16 * -12 = -3/4, i3 1/16 * -6 = -3/8
#     2A  1/4 * {i2: 1/2} + 1/4 * {i5: 1/4, i6: 1/4}    i2 1/8 * 3 = 3/8, i5 0, i6 1/16 * -12 = -3/4
#     2B  1/2 * {i1: 1/2}                               i1 1/4 * 4 = 1
IT_1 = per_cell(1 / 2, 1, 0, 3 / 4, 9 / 2, 0) / (5 / 2)
IT_2 = per_cell(1 / 2, 0, 0, -1, 0, 3) / (5 / 2)
RED_1 = per_cell(1 / 4, 0, -3 / 8, 0, -9 / 4, 0) / (10 / 3)
RED_2 = per_cell(1, 3 / 8, 0, 0, 0, -3 / 4) / (10 / 3)
IT, RED = IT_1 + IT_2, RED_1 + RED_2

# state: the thoughts are read at rows 8, 9.
#   it, row 11
#     1A  1/2 * {i2: 1/2, i4: 1/4}                      i2 1/4 * 8 = 2, i4 1/8 * 12 = 3/2
#     1B  1/4 * {i1: 1/4, i3: 1/4} + 1/4 * {i6: 1/2}    i1 1/16 * 12 = 3/4, i3 1/16 * 6 = 3/8, i6 1/8 * -12 = -3/2
#     2A  1/4 * {i5: 1/4, i6: 1/4} + 1/4 * {i1: 1/2}    i5 0, i6 1/16 * 12 = 3/4, i1 1/8 * 9 = 9/8
#     2B  1/2 * {i2: 1/2}                               i2 1/4 * 8 = 2
#   red, row 12
#     1A  1/2 * {i3: 1/2}                               i3 1/4 * -4 = -1
#     1B  1/4 * {i1: 1/4, i3: 1/4} + 1/2 * {i6: 1/2}    i1 1/16 * -12 = -3/4, i3 1/16 * -6 = -3/8, i6 1/4 * 12 = 3
#     2A  1/2 * {i5: 1/4, i6: 1/4}                      i5 0, i6 1/8 * -12 = -3/2
#     2B  1/4 * {i1: 1/2}                               i1 1/8 * 4 = 1/2
IT_STATE = per_cell(15 / 8, 4, 3 / 8, 3 / 2, 0, -3 / 4) / (10 / 3)
RED_STATE = per_cell(-1 / 4, 0, -11 / 8, 0, 0, 3 / 2) / (13 / 6)

# Added up and brought to one denominator:
COT_ROLLOUT = per_cell(31 / 40, 41 / 80, -9 / 80, -1 / 10, 9 / 8, 39 / 40)
COT_ROLLOUT_STATE = per_cell(93 / 208, 6 / 5, -543 / 1040, 9 / 20, 0, 243 / 520)

# direct, rows 10 and 11: 1A i6 1/4 * 4 = 1 and i1 1/4 * 4 = 1; 1B i2 1/4 * -6 = -3/2 and none; 2A i3 1/4 * 6 = 3/2
# and none; 2B none and i5 1/4 * 4 = 1.
DIRECT = per_cell(0, -3 / 2, 3 / 2, 0, 0, 1) / (5 / 2) + per_cell(1, 0, 0, 0, 1, 0) / (10 / 3)

# cot_rollout_normalised, predictor: each hop's weights made to add up to one.
#   it   1A  1/2 * {i1: 1} + 1/2 * {i2: 2/3, i4: 1/3}   i1 1/2 * 4 = 2, i2 1/3 * 8 = 8/3, i4 1/6 * 12 = 2
#        1B  {i5: 1}                                    i5 18
#        2A  {i5: 1/2, i6: 1/2}                         i5 0, i6 1/2 * 12 = 6
#        2B  2/3 * {i4: 1/2, i6: 1/2} + 1/3 * {i1: 1}   i4 1/3 * -8 = -8/3, i6 1/3 * 12 = 4, i1 1/3 * 4 = 4/3
#   red  1A  {i1: 1}                                    i1 4
#        1B  1/2 * {i5: 1} + 1/2 * {i1: 1/2, i3: 1/2}   i5 1/2 * -18 = -9, i1 1/4 * -12 = -3, i3 1/4 * -6 = -3/2
#        2A  1/2 * {i2: 1} + 1/2 * {i5: 1/2, i6: 1/2}   i2 1/2 * 3 = 3/2, i5 0, i6 1/4 * -12 = -3
#        2B  {i1: 1}                                    i1 4
NORMALISED = per_cell(10 / 3, 8 / 3, 0, -2 / 3, 18, 10) / (5 / 2)
NORMALISED = NORMALISED + per_cell(5, 3 / 2, -3 / 2, 0, -9, -3) / (10 / 3)

# attention_rollout, predictor: after layer 1 the image column i of the product is half the mean of the heads at a row
# of text, and 1/2 at token i itself. Four times what row r has after layer 2 is therefore
# mean2(r -> i) + mean2(r -> 8) mean1(8 -> i) + mean2(r -> 9) mean1(9 -> i) + (1 + mean2(r -> r)) mean1(r -> i), with
#   mean1   8: i1 1/8, i2 1/4, i3 1/8, i4 1/8    9: i3 1/4, i6 1/4    10: i2 1/8, i6 1/8    11: i1 1/8
#   mean2   10: i3 1/8, key 8 1/4, key 9 3/8, own 1/4                 11: i5 1/8, key 8 1/8, key 9 3/8, own 3/8
#   row 10, in 64ths  i1 2, i2 4 + 10, i3 8 + 2 + 6, i4 2, i6 6 + 10
#   row 11, in 64ths  i1 1 + 11, i2 2, i3 1 + 6, i4 1, i5 8, i6 6
ROLLOUT = per_cell(14, 16, 23, 3, 8, 22) / (4 * 64)

# tam: the positive logits of the words at the image tokens, as set.
#   it   Before it red (8) and ball (9) were said, where it has 1 and 2: 1 * red + 2 * ball = (4, 2, 2, 2, 2, 2).
#        Of it (1, 2, 0, 4, 2, 0) that explains 20/36 = 5/9 times as much: (-, 2 - 10/9, -, 4 - 10/9, 2 - 10/9, -).
#   red  Before it: red itself, which does not count; ball, where red has -1, so 0; and it, where red has log 2n. So it
#        is log 2n * it, whose part in red (4, 0, 2, 0, 2, 0) is 8/25 of it: (4 - 8/25, -, 2, -, 2 - 16/25, -).
TAM = per_cell(0, 8 / 9, 0, 26 / 9, 8 / 9, 0) + per_cell(92 / 25, 0, 2, 0, 34 / 25, 0)

# grad_attention. it and red have the probabilities 1/3 and 1/3 at row 10, where it comes, and 1/4 and 1/2 at row 11,
# where red comes. As x = y = 0, a norm's rms stands still when they are moved. So log p moves with the last (x, y) by
#   row 10  gamma * ((1, 1) - 1/3 (1, 1) - 1/3 (1, -1)) / (5/2) = (2 * 1/3, 3 * 1) / (5/2) = (4/15, 6/5)
#   row 11  gamma * ((1, -1) - 1/4 (1, 1) - 1/2 (1, -1)) / (10/3) = (2 * 1/4, 3 * -3/4) / (10/3) = (3/20, -27/40)
# and with (x, y) after layer 1 besides as y goes by -1 into v0 of layer 2, which head A writes to y:
#   row 10  y: 6/5 - 1/4 * 6/5 = 9/10            row 11  y: -27/40 + 1/2 * 27/40 = -27/80
#   row 8   y: -1/4 * -27/40 = 27/160 (row 11)   row 9   y: -1/2 * 6/5 - 1/4 * -27/40 = -69/160 (rows 10 and 11)
# Rows 7 and 12 move nothing. Weight times positive slope:
#   layer 2  row 10  A i3 1/4 * 2 * 6/5 = 3/5               row 11  B i5 1/4 * 2 * 1 * 3/20 = 3/40
#   layer 1  row 10  A i6 1/4 * 2 * 4/15 = 2/15, B i2 -2 * 9/10 < 0     row 11  A i1 1/4 * 2 * 3/20 = 3/40
#            row 8   B i1 1/4 * 4 * 27/160 = 27/160, i3 1/4 * 2 * 27/160 = 27/320
#            row 9   B i6 1/2 * -4 * -69/160 = 69/80
# predictor looks at rows 7, 8, 10, 11 and state at 8, 9, 11, 12.
GRAD = per_cell(3 / 40 + 27 / 160, 0, 3 / 5 + 27 / 320, 0, 3 / 40, 2 / 15)
GRAD_STATE = per_cell(3 / 40 + 27 / 160, 0, 27 / 320, 0, 3 / 40, 69 / 80)


def test_the_network_is_as_described(network):
    """Weights, values and last states, as far as the paper needs them; the pass itself makes them."""
    _, given, _ = two_layers_inputs(network)
    states, values = [], []

    class Reader:
        differentiable = False

        def on_layer(self, index, layer):
            assert (layer.query.shape[1], layer.key.shape[1]) == (2, 1)
            values.append(layer.value[0, 0, 1:13, :2])

        def on_final(self, hidden):
            states.append(hidden[0])

    with torch.no_grad(), capture(network, Reader()):
        network.model(**given, use_cache=False)
    wanted = torch.zeros_like(states[0])
    wanted[:, :LENGTH] = 12 * torch.eye(LENGTH)
    wanted[:, Z] = torch.tensor([9.0] * 11 + [16, 5, 9])
    np.testing.assert_allclose(states[0], wanted, **NEAR)
    assert states[0][7:13, [X, Y]].abs().max() < 1e-5
    for layer in (1, 2):
        wanted = torch.tensor([*IMAGE_VALUES[layer], *OWN_VALUES[layer]])
        np.testing.assert_allclose(values[layer - 1], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "rows", "expected"),
    [
        ("cot_rollout", "predictor", COT_ROLLOUT),
        ("cot_rollout", "state", COT_ROLLOUT_STATE),
        ("cot_rollout_positive", "predictor", IT.relu() + RED.relu()),
        ("cot_rollout_positive", "state", IT_STATE.relu() + RED_STATE.relu()),
        ("cot_rollout_late", "predictor", IT_2 + RED_2),
        # The probabilities are those of row 10 and 11, in either convention.
        ("cot_rollout_confident", "predictor", IT / 3 + RED / 2),
        ("cot_rollout_confident", "state", IT_STATE / 3 + RED_STATE / 2),
        ("cot_rollout_normalised", "predictor", NORMALISED),
        ("cot_rollout_direct", "predictor", COT_ROLLOUT + DIRECT),
        ("direct", "predictor", DIRECT),
        # Half of each weight, as the other head has none: rows 10 and 11 look at five image tokens with 1/4 once each.
        ("raw_attention", "predictor", per_cell(1, 1, 1, 0, 1, 1) / 8),
        ("attention_rollout", "predictor", ROLLOUT),
        ("tam", "predictor", TAM),
        ("tam", "state", TAM),
        ("grad_attention", "predictor", GRAD),
        ("grad_attention", "state", GRAD_STATE),
    ],
)
def test_two_layers_worked_by_hand(network, method, rows, expected):
    assert expected.abs().max() > 0.05
    np.testing.assert_allclose(_signed(network, method, rows), expected, **NEAR)


def test_the_paper_is_consistent_with_itself():
    """The sums of the parts are the numbers written for the whole."""
    np.testing.assert_allclose(IT + RED, COT_ROLLOUT, rtol=1e-12)
    np.testing.assert_allclose(IT_STATE + RED_STATE, COT_ROLLOUT_STATE, rtol=1e-12)
