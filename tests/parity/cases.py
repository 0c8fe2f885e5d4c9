"""Pictures, questions and completions that the parity tests explain."""

import numpy as np
from PIL import Image

# Wide, high and square pictures, prompts and words of different lengths: padded on both sides in a batch.
CASES = [
    ((230, 150), "what is it", "the red ball", "ball"),
    ((120, 290), "look at the picture what is it", "red", "red ball"),
    ((170, 170), "it", "it is the red ball", "the red ball"),
]


def example(case, seed):
    """Picture (noise), question and completion of a case."""
    (width, height), question, thought, answer = case
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels), question, f"<think>{thought}</think>{answer}"


def in_precision(inputs, dtype):
    """Inputs whose pixels are `dtype`."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def written_spans(case, ids, start, tokenizer):
    """Positions of thought and answer, by the tags' ids."""
    opening, closing, end = (
        ids.index(tokenizer.convert_tokens_to_ids(tag), start)
        for tag in ("<think>", "</think>", "<|im_end|>")
    )
    thought, answer = list(range(opening + 1, closing)), list(range(closing + 1, end))
    assert (len(thought), len(answer)) == (len(case[2].split()), len(case[3].split()))
    return thought, answer
