"""A network of two layers set by hand, so that its maps can be worked out on paper: tests/parity/test_by_hand.py.

A Qwen2.5-VL of hidden size 36 with two query heads, A and B, on one key head of size 18. Each of the 14 tokens has a
coordinate of its own, in which its state starts at 12 and stays; beside them there are x, y and z. Positions are all
zero, so that the rotary embedding turns nothing, and the norms have no epsilon.

    0      1..6              7        8    9     10        11  12   13
    sink   i1 .. i6 (2 x 3)  <think>  red  ball  </think>  it  red  <|im_end|>

Keys are the tokens' own coordinates and queries hold the logarithms of ATTENTION, so that those are the weights. What a
row does not give away goes to itself (`own`), and the sink and the image tokens look at the sink, whose value is 0.
Values (v0, v1) are IMAGE_VALUES and OWN_VALUES. In layer 1 head A writes v0 to x and head B v1 to y; in layer 2 head A
writes v0 to y and head B 2 * v1 to x. The own values of rows 7 to 12 are chosen so that all that a row writes adds up
to nothing: in layer 1, head A, row 8 that is 1/2 * 4 (i2) + 1/4 * 6 (i4) + 1/4 * own = 0, so own = -14. So x = y = 0
for every token after every layer, while each of the shares is not 0.

z is written by the feed-forwards: 9 to every token in layer 1; in layer 2 +7 to row 11 and -4 to row 12. So after
layer 1 a state is 12 in its own coordinate and 9 in z, of length 15, and in layer 2 part of each value comes from z. At
the end rows 10, 11 and 12 have z = 9, 16 and 5, lengths 15, 20 and 13 and, divided by sqrt(36), rms 5/2, 10/3, 13/6.
"""

from fractions import Fraction
from math import log

import torch

from tests.parity.models import SHAPE, words
from training.architecture import build_policy

LENGTH, X, Y, Z, HIDDEN, HEAD = 14, 14, 15, 16, 36, 18
RED, BALL, IT = (words()(f" {word}")["input_ids"][0] for word in ("red", "ball", "it"))

HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
ATTENTION = {  # (layer, head): row: key: weight
    (1, "A"): {
        7: {1: HALF},
        8: {2: HALF, 4: QUARTER},
        9: {3: HALF},
        10: {8: QUARTER, 9: QUARTER, 6: QUARTER},
        11: {8: HALF, 1: QUARTER},
        12: {9: HALF},
    },
    (1, "B"): {
        7: {5: HALF},
        8: {1: QUARTER, 3: QUARTER},
        9: {6: HALF},
        10: {8: HALF, 2: QUARTER},
        11: {8: QUARTER, 9: QUARTER},
        12: {8: QUARTER, 9: HALF},
    },
    (2, "A"): {
        7: {2: HALF},
        8: {5: QUARTER, 6: QUARTER},
        9: {1: HALF},
        10: {9: HALF, 3: QUARTER},
        11: {8: QUARTER, 9: QUARTER},
        12: {8: HALF, 4: QUARTER},
    },
    (2, "B"): {
        7: {4: QUARTER, 6: QUARTER},
        8: {1: HALF},
        9: {2: HALF},
        10: {8: HALF, 9: QUARTER},
        11: {9: HALF, 5: QUARTER},
        12: {8: QUARTER, 6: QUARTER},
    },
}
# (v0, v1) of the image tokens and of tokens 7 to 12
IMAGE_VALUES = {
    1: [(2, 4), (4, -2), (-2, 2), (6, 0), (0, 6), (2, -4)],
    2: [(3, 1), (-1, 2), (2, 0), (1, -2), (0, 1), (4, 3)],
}
OWN_VALUES = {
    1: [(-2, -6), (-14, -3), (2, 4), (10, 8), (26, -0.5), (-2, -5)],
    2: [(1, -0.5), (-2, -1), (-3, -2), (4, 4), (2.5, 3), (3, -1)],
}
VALUE_BIAS = (0.5, -1.0)
FROM_Z = (1.0, 2.0)  # to (v0, v1) of layer 2
FROM_Y = -1.0  # to v0 of layer 2: nothing in the pass, where y = 0, but gradients go this way

GAMMA_X, GAMMA_Y = 2.0, 3.0
HEAD_XY = {IT: (1.0, 1.0), RED: (1.0, -1.0)}
# Logits of three words at the image tokens and at rows 8 and 9, for `tam`.
LOGITS = {
    RED: [4, 0, 2, 0, 2, -5, 3, -1],
    BALL: [0, 1, -1, 1, 0, 1, 0, 0],
    IT: [1, 2, 0, 4, 2, 0, 1, 2],
}


def two_layers():
    """The policy, float64."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 3]}
    changes = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "rms_norm_eps": 0.0}
    changes |= {"num_key_value_heads": 1, "tie_word_embeddings": False, "rope_parameters": rope}
    policy = build_policy(words(), 0, **{**SHAPE, **changes})
    policy.model.to(torch.float64)
    text_model = policy.family.text_model(policy.model)
    with torch.no_grad():
        for parameter in (*text_model.parameters(), *policy.model.lm_head.parameters()):
            parameter.zero_()
        for number, layer in enumerate(text_model.layers, start=1):
            _set_attention(layer.self_attn, number)
            _set_norms_and_feed_forward(layer, number)
        text_model.norm.weight[:] = 1.0
        text_model.norm.weight[X], text_model.norm.weight[Y] = GAMMA_X, GAMMA_Y
        _set_head(policy.model.lm_head.weight)
    return policy


def _set_attention(attention, number):
    """What comes in is 1 in the token's own coordinate and, in layer 2, 1 in z."""
    queries = attention.q_proj.weight.view(2, HEAD, HIDDEN)  # [head, key, row]
    for head, name in enumerate("AB"):
        queries[head, :, :LENGTH] = -1000.0  # exp(-1000) is 0
        for row in (*range(7), 13):
            queries[head, 0, row] = 0.0
        for row, given in ATTENTION[number, name].items():
            for key, weight in {**given, row: 1 - sum(given.values())}.items():
                queries[head, key, row] = log(weight)
    attention.k_proj.weight[:LENGTH, :LENGTH] = HEAD**0.5 * torch.eye(LENGTH)
    from_z = FROM_Z if number == 2 else (0.0, 0.0)
    for out in (0, 1):
        attention.v_proj.bias[out] = VALUE_BIAS[out]
        values = [0, *(value[out] for value in (*IMAGE_VALUES[number], *OWN_VALUES[number])), 0]
        attention.v_proj.weight[out, :LENGTH] = torch.tensor(values) - VALUE_BIAS[out] - from_z[out]
        attention.v_proj.weight[out, Z] = from_z[out]
    if number == 2:
        attention.v_proj.weight[0, Y] = FROM_Y
    a_to, b_to, b_factor = (X, Y, 1.0) if number == 1 else (Y, X, 2.0)
    attention.o_proj.weight[a_to, 0] = 1.0
    attention.o_proj.weight[b_to, HEAD + 1] = b_factor


def _set_norms_and_feed_forward(layer, number):
    """A norm takes a state of length n to 6 / n of it; its gains make 1 of what is then in a token's own coordinate.

    The gate is 64, which silu leaves as it is.
    """
    length = {1: 12.0, 2: 15.0}
    layer.input_layernorm.weight[:] = length[number] / 6
    layer.input_layernorm.weight[:LENGTH] = length[number] / 6 / 12
    layer.input_layernorm.weight[Z] = length[number] / 6 / 9
    layer.post_attention_layernorm.weight[:] = length[number] / 6 / 12
    z = torch.full((LENGTH,), 9.0) if number == 1 else torch.tensor([0.0] * 11 + [7.0, -4.0, 0.0])
    layer.mlp.gate_proj.weight[0, :LENGTH] = 64.0
    layer.mlp.up_proj.weight[0, :LENGTH] = z / 64
    layer.mlp.down_proj.weight[Z, 0] = 1.0


def _set_head(head):
    """At row 10 `it` and `red` have the logit log n, at row 11 `it` log n and `red` log 2n; all n others have 0."""
    for word, (x, y) in HEAD_XY.items():
        head[word, X], head[word, Y] = x, y
    for word, logits in LOGITS.items():
        for token, logit in zip((*range(1, 7), 8, 9), logits, strict=True):
            head[word, token] = logit * 2.5 / 12  # 12 in the token's own coordinate, rms 5/2
    n = len(head) - 2
    for word, row, rms, odds in (
        (IT, 10, 5 / 2, 1),
        (RED, 10, 5 / 2, 1),
        (IT, 11, 10 / 3, 1),
        (RED, 11, 10 / 3, 2),
    ):
        head[word, row] = log(odds * n) * rms / 12


def two_layers_inputs(policy):
    """What the recorder reads, what the model is given, and where the completion starts."""
    ids = policy.tokenizer.convert_tokens_to_ids
    picture = [policy.family.image_token_id(policy.model)] * 6
    said = [ids("<think>"), RED, BALL, ids("</think>"), IT, RED, ids("<|im_end|>")]
    input_ids = torch.tensor([[ids("<|im_start|>"), *picture, *said]])
    mask = torch.ones_like(input_ids)
    told = {"input_ids": input_ids, "attention_mask": mask, "image_grid_thw": torch.tensor([[1, 4, 6]])}
    states = torch.zeros(1, LENGTH, HIDDEN, dtype=torch.float64)
    states[0, :, :LENGTH] = 12.0 * torch.eye(LENGTH)
    positions = torch.zeros(3, 1, LENGTH, dtype=torch.long)
    given = {"inputs_embeds": states, "attention_mask": mask, "position_ids": positions}
    return told, given, 7
