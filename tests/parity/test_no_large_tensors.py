"""What the engine makes is small: nothing of heads x length x length, nothing of answer x image x vocabulary.

By number of elements and not by shape alone, so that a flattened, transposed or stacked tensor counts as well, and
over every method but two and every row convention. Tensors of the pass itself (no capture) are taken off.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from tests.parity.models import random_policy, words
from training.conversation import SYSTEM_PROMPT
from training.saliency import METHODS, ROWS, record_maps
from training.teacher_forcing import teacher_forced

LARGER = ("attention_rollout", "grad_attention")
"""The two that cannot be this small: rollout needs every row (64 of them at once), the other keeps the pass's graph."""

N_HEADS, N_IMAGE, N_THOUGHT, N_ANSWER = 6, 40, 4, 2


class _Made(TorchDispatchMode):
    """Shapes of the tensors that operations returned and that own new memory."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= tensor.nbytes:
                self.shapes.add(tuple(tensor.shape))
        return out


@pytest.fixture(scope="module")
def case():
    """8 x 5 image tokens, four words of thought, two of answer; an untied head, not the size of another axis."""
    policy = random_policy(dtype=torch.float32, tie_word_embeddings=False)
    pixels = np.random.default_rng(0).integers(0, 256, (8 * 28, 5 * 28, 3), dtype=np.uint8)
    completion = "<think>the red ball is</think>the ball"
    question = "what is it look at the picture " * 12
    inputs, start = teacher_forced(policy, [(Image.fromarray(pixels), question, completion)], SYSTEM_PROMPT)
    return policy, inputs, start


def _made_by_the_engine(case, method, rows):
    policy, inputs, start = case
    with torch.no_grad(), _Made() as bare:
        policy.model(**inputs, use_cache=False, logits_to_keep=1)
    with torch.no_grad(), _Made() as made, record_maps(policy, inputs, start, method, rows) as recorder:
        policy.model(**inputs, use_cache=False, logits_to_keep=1)
        (found,) = recorder.maps()
    assert found.values is not None or found.reason == "zero_map"
    assert found.grid_hw == (8, 5)
    return made.shapes - bare.shapes


def too_large(shapes, length, vocabulary):
    """The shapes that the engine may not make."""
    squares = [s for s in shapes if np.prod(s) >= length * length or s.count(length) > 1]
    wide = [s for s in shapes if vocabulary in s and np.prod(s) > max(N_ANSWER, N_THOUGHT) * vocabulary]
    wide += [s for s in shapes if np.prod(s) >= N_ANSWER * N_IMAGE * vocabulary]
    return squares + wide


@pytest.mark.parametrize("method", METHODS)
def test_what_is_kept_of_masks_is_a_few_rows(case, method):
    """Attention rollout reads every row: what is worked out of the mask for those must go with the layer."""
    policy, inputs, start = case
    kept = []
    with record_maps(policy, inputs, start, method) as recorder:
        add = recorder.on_layer

        def looking_on(index, layer):
            add(index, layer)
            kept.append(sum(bias.numel() for _, _, bias in layer.biases.values()))

        recorder.on_layer = looking_on
        policy.model(**inputs, use_cache=False, logits_to_keep=1)
    length = inputs["input_ids"].shape[1]
    assert len(kept) > 1
    assert (
        max(kept) <= (N_THOUGHT + N_ANSWER + 2) * length * 2
    )  # thoughts, answer, and both with what lies between


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("method", [name for name in METHODS if name not in LARGER])
def test_nothing_large_is_made(case, method, rows):
    length = case[1]["input_ids"].shape[1]
    made = _made_by_the_engine(case, method, rows)
    assert any(N_IMAGE in shape for shape in made)  # the engine was seen at work
    # All heads' rows of the thoughts are allowed, and are far below length x length here.
    assert N_HEADS * N_THOUGHT * length < length * length / 2
    assert too_large(made, length, len(words())) == []


@pytest.mark.parametrize(
    "shape",
    [
        (1, N_HEADS, 200, 200),
        (N_HEADS, 200 * 200),
        (200, N_HEADS * 200),
        (1, N_ANSWER, N_IMAGE, 400),
        (N_ANSWER * N_IMAGE, 400),
        (N_IMAGE, 400),
    ],
)
def test_what_may_not_be_made_is_recognised(shape):
    small = {(1, N_HEADS, N_THOUGHT, 200), (1, N_ANSWER, 400), (1, N_ANSWER, N_IMAGE)}
    assert set(too_large({shape, *small}, 200, 400)) == {shape}
