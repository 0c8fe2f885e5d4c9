"""How evenly the strata are split: each source x answer type, held against the shares that were asked for.

Sides are drawn from pixels alone (`ops/split.py` says why), so a stratum strays as independent draws do. Here that is
measured; nothing is balanced.
"""

from collections.abc import Collection, Mapping

import dagster as dg

from assets.checks import outcome, warning
from ops.split import SIDES
from storage.asking import Rows, n_draws

SIGMAS = 3
BY_CHANCE = 0.0027  # how often a normal draw lies beyond three standard deviations

STRATA = warning(
    "strata",
    ["data", "splits"],
    f"Each source x answer type is on every side, in shares within {SIGMAS} standard deviations of those asked for.",
)


def strata(
    splits: Rows,
    examples: Rows,
    fractions: Mapping[str, float],
    marked: Collection[str] = (),
) -> dg.AssetCheckResult:
    """Draws of each stratum by side, with the binomial bounds of each share.

    A draw is a picture or, where pictures are near duplicates, their group, which was drawn once; it counts in a
    stratum if one of its examples does. `marked`: pictures (image_sha256) that a source made for one side; these and
    excluded ones do not count.
    """
    wanted = {"train": 1 - sum(fractions.values()), **{side: fractions.get(side, 0.0) for side in SIDES[1:]}}
    rows, problems = [], []
    for (source, kind), counts in n_draws(splits, examples, SIDES, marked).items():
        n = sum(counts.values())
        row: dict[str, str | int] = {"source": source, "answer_type": kind, "n": n}
        for side, share in wanted.items():
            room = SIGMAS * (share * (1 - share) / n) ** 0.5
            low, high = max(0.0, share - room), min(1.0, share + room)
            seen = counts.get(side, 0) / n
            row |= {side: counts.get(side, 0), f"{side}_share": f"{seen:.3f} ({low:.3f} to {high:.3f})"}
            if share and not seen:
                problems.append(f"{source}, {kind}: none of {n} in {side}, {share * n:.1f} expected")
            elif not low <= seen <= high:
                problems.append(
                    f"{source}, {kind}: {seen:.1%} of {n} in {side}, expected {low:.1%} to {high:.1%}"
                )
        rows.append(row)
    n_shares = len(rows) * len(SIDES)
    said = f"{len(rows)} strata; of {n_shares} shares {BY_CHANCE * n_shares:.1f} stray beyond the bounds by chance"
    table = (
        dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows])
        if rows
        else dg.MetadataValue.text("none")
    )
    return outcome(STRATA, problems, said, n_strata=len(rows), strata=table)
