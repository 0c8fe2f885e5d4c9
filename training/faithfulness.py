"""Whether a map is true to its policy, by intervention: cells of the picture are filled, the policy looks again.

Deletion fills a map's strongest cells, insertion keeps nothing but them; both ask what becomes of the answer's
log-probability. With the evidence filled, against as many cells elsewhere, the policy answers anew. Which cells
are filled is `training/masking.py`; a map under random weights is `training/randomised.py`.

The log-probability is the sum over the answer's tokens, in nats, with the policy's own completion (thought and
answer) forced. Curves hold its change against the untouched picture. A thought may give its answer away, so the
same is told of the whole completion too.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ops.faithfulness import FRACTIONS, RANDOM, area_under
from storage.rows import Row
from training.answers import CORRECT_FROM, answer_ids, points_of, text_of
from training.config import EvaluateSettings
from training.conversation import parse
from training.layout import Layout
from training.masking import Mask, Order, evidence_and_elsewhere, filled, order_of, random_order, top_cells
from training.overlap import Region
from training.policy import Policy
from training.saliency import SaliencyMap
from training.spans import Spans, spans
from training.teacher_forcing import teacher_forced


@dataclass(frozen=True)
class Said:
    """A completion as token ids, where thought and answer lie in it, and what it was said about."""

    picture: Image.Image
    question: str
    ids: Sequence[int]
    spans: Spans
    grid_hw: tuple[int, int]
    region: Region


@dataclass(frozen=True)
class Curve:
    """Change of the log-probability at each of FRACTIONS, in nats: of the answer, and of the completion."""

    answer: tuple[float, ...]
    completion: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """deletion: cells of the first shares of the order are filled. insertion: all others are."""

    deletion: Curve
    insertion: Curve


def curves_of(
    policy: Policy,
    said: Sequence[Said],
    orders: Sequence[Mapping[str, Order]],
    system_prompt: str,
    batch_size: int,
) -> list[dict[str, Curves]]:
    """Both curves of every order of each completion's cells, by the orders' names.

    A mask that several orders share is looked at once. `batch_size` counts masked pictures.
    """
    wanted: list[dict[bytes, Mask]] = []
    for each, ranked in zip(said, orders, strict=True):
        masks = [m for order in ranked.values() for pair in _masks(order, each.grid_hw) for m in pair]
        wanted.append({mask.tobytes(): mask for mask in masks})
    asked = [(each, mask) for each, masks in zip(said, wanted, strict=True) for mask in masks.values()]
    found = log_probabilities(policy, asked, system_prompt, batch_size)
    out, start = [], 0
    for each, ranked, of in zip(said, orders, wanted, strict=True):
        seen = dict(zip(of, found[start : start + len(of)], strict=True))
        start += len(of)
        out.append({name: _curves(order, each.grid_hw, seen) for name, order in ranked.items()})
    return out


def _masks(order: Order, grid_hw: tuple[int, int]) -> list[tuple[Mask, Mask]]:
    """What deletion and insertion fill at each fraction."""
    tops = [top_cells(order, grid_hw, fraction) for fraction in FRACTIONS]
    return [(top, ~top) for top in tops]


def _curves(order: Order, grid_hw: tuple[int, int], seen: Mapping[bytes, tuple[float, float]]) -> Curves:
    untouched = seen[np.zeros(grid_hw, dtype=bool).tobytes()]
    pairs = [(seen[gone.tobytes()], seen[rest.tobytes()]) for gone, rest in _masks(order, grid_hw)]
    sides = []
    for values in zip(*pairs, strict=True):
        answer, completion = (tuple(v[i] - untouched[i] for v in values) for i in (0, 1))
        sides.append(Curve(answer, completion))
    return Curves(*sides)


def log_probabilities(
    policy: Policy, asked: Sequence[tuple[Said, Mask]], system_prompt: str, batch_size: int
) -> list[tuple[float, float]]:
    """Log-probability in nats of each answer, and of its whole completion, with the mask's cells filled.

    The masked picture goes through the processor like any other.
    """
    found: list[tuple[float, float]] = []
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        inputs, begins = teacher_forced(
            policy,
            [(filled(s.picture, mask, s.region), s.question, s.ids) for s, mask in part],
            system_prompt,
        )
        n_said = inputs["input_ids"].shape[1] - begins
        with torch.no_grad():
            logits = policy.model(**inputs, use_cache=False, logits_to_keep=n_said + 1).logits[:, :-1]
        ids = inputs["input_ids"][:, begins:, None]
        of_token = (logits.float().gather(2, ids)[..., 0] - logits.float().logsumexp(dim=2)).double().cpu()
        for row, (each, _) in zip(of_token, part, strict=True):
            place = each.spans
            answer = float(row[place.answer.start : place.answer.stop].sum())
            found.append((answer, float(row[: place.end].sum())))
    return found


def sample_of(rows: Sequence[Row], n: int) -> frozenset[str]:
    """At most `n` example_ids, by a hash of their own: the same ones for every policy and order of rows."""
    return frozenset(each.example_id for each in by_hash(rows)[:n])


def by_hash(rows: Sequence[Row]) -> list[Row]:
    """The rows in an order that only their example_ids decide."""
    return sorted(rows, key=lambda r: hashlib.sha256(f"faithfulness:{r.example_id}".encode()).digest())


def intervened(
    policy: Policy,
    rows: Sequence[Row],
    pictures: Sequence[Image.Image],
    said: Sequence[Sequence[int]],
    maps: Sequence[SaliencyMap],
    system_prompt: str,
    settings: EvaluateSettings,
) -> list[dict[str, Any]]:
    """Columns of predictions that come from masked pictures: answers under masks, areas under the curves.

    A completion in a wrong form has no map here, as everywhere in predictions. The curves are those of thought and
    answer together: an answer is often copied from the thought that stands before it, whatever the picture shows.
    """
    if not rows:
        return []
    columns = masked_answers(policy, rows, pictures, system_prompt, settings)
    asked: dict[int, Said] = {}
    orders = []
    for i, found_map in enumerate(maps):
        values = found_map.values
        if values is not None and parse(text_of(policy, said[i])).format_valid:
            asked[i] = said_of(policy, rows[i], pictures[i], said[i], found_map)
            name = rows[i].example_id
            orders.append({"map": order_of(values, name), RANDOM: random_order(values.size, name)})
    found = curves_of(policy, list(asked.values()), orders, system_prompt, settings.batch_size)
    for i, curves in zip(asked, found, strict=True):
        columns[i] |= {
            "deletion_auc": area_under(curves["map"].deletion.completion),
            "insertion_auc": area_under(curves["map"].insertion.completion),
            "random_deletion_auc": area_under(curves[RANDOM].deletion.completion),
            "random_insertion_auc": area_under(curves[RANDOM].insertion.completion),
        }
    return columns


def said_of(policy: Policy, row: Row, image: Image.Image, ids: Sequence[int], explained: SaliencyMap) -> Said:
    """A completion with its spans and its map's grid. Raises ValueError where it has no answer or no grid."""
    found = spans(policy.tokenizer, ids, thought_needed=False)
    if isinstance(found, str) or explained.grid_hw is None:
        raise ValueError(f"example {row.example_id}: {found}; wanted a completion that has a map")
    return Said(image, row.question, ids, found, explained.grid_hw, explained.region)


def masked_answers(
    policy: Policy,
    rows: Sequence[Row],
    pictures: Sequence[Image.Image],
    system_prompt: str,
    settings: EvaluateSettings,
) -> list[dict[str, Any]]:
    """Whether the greedy answer is right with the evidence filled, and with as many cells elsewhere.

    Both are None with a reason where there is no evidence or no equal mask beside it.
    """
    columns: list[dict[str, Any]] = []
    asked: list[tuple[int, str, Image.Image]] = []
    for i, layout in enumerate(layouts(policy, pictures)):
        row, image, region = rows[i], pictures[i], layout.region
        masks = evidence_and_elsewhere(row.boxes, image.size, layout.grid_hw, region, row.example_id)
        columns.append({"unmasked_reason": masks if isinstance(masks, str) else None})
        if not isinstance(masks, str):
            evidence, beside = masks
            asked.append((i, "correct_evidence_masked", filled(image, evidence, region)))
            asked.append((i, "correct_elsewhere_masked", filled(image, beside, region)))
    for start in range(0, len(asked), settings.batch_size):
        part = asked[start : start + settings.batch_size]
        of = [rows[i] for i, _, _ in part]
        said = answer_ids(
            policy, [image for _, _, image in part], of, system_prompt, settings.max_completion_length
        )
        for (i, column, _), row, ids in zip(part, of, said, strict=True):
            columns[i][column] = points_of(row, text_of(policy, ids)) >= CORRECT_FROM[row.answer_type]
    return columns


def curve_record(curves: Curves) -> dict[str, dict[str, list[float]]]:
    """As plain JSON: side -> span -> values, as ops/faithfulness.py reads it."""
    return {
        "deletion": {"answer": list(curves.deletion.answer), "completion": list(curves.deletion.completion)},
        "insertion": {
            "answer": list(curves.insertion.answer),
            "completion": list(curves.insertion.completion),
        },
    }


def layouts(policy: Policy, pictures: Sequence[Image.Image]) -> list[Layout]:
    """The token grid that each picture becomes, and the part of the picture that it spans."""
    inputs, _ = teacher_forced(policy, [(picture, "?", [0]) for picture in pictures], "")
    found = [policy.layout(inputs, i, picture.size) for i, picture in enumerate(pictures)]
    whole = [layout for layout in found if layout is not None]
    if len(whole) < len(found):
        raise ValueError(
            "a picture lost image tokens though no length limit was set; its cells cannot be told"
        )
    return whole
