"""Tables of the report that count and list: sources, refused rows, splits, artifacts, versions.

Only counting of rows that are already there; what is measured about policies is ops/comparison.py.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ops.charts import share_bar
from storage.measured import was_measured

Row = Mapping[str, Any]
SPLITS = ("train", "val", "test", "excluded")


def sources(
    examples: pa.Table, quarantine: pa.Table, splits: pa.Table, images: pa.Table
) -> list[dict[str, Any]]:
    """Per source, and for all together last: rows in, examples, refused, pictures, and the splits."""
    split_of = dict(zip(splits["example_id"].to_pylist(), splits["split"].to_pylist(), strict=True))
    examples_of: Counter[str] = Counter()
    split_counts: Counter[tuple[str, str]] = Counter()
    pictures: dict[str, set[str]] = {}
    for row in examples.select(["example_id", "source", "image_sha256"]).to_pylist():
        examples_of[row["source"]] += 1
        split_counts[row["source"], split_of.get(row["example_id"], "excluded")] += 1
        pictures.setdefault(row["source"], set()).add(row["image_sha256"])
    refused_of = Counter(quarantine["source"].to_pylist())
    names = sorted({*examples_of, *refused_of})
    out = [
        _source(name, examples_of[name], refused_of[name], len(pictures.get(name, ())), split_counts, [name])
        for name in names
    ]
    if len(names) > 1:
        all_pictures = set().union(*pictures.values())
        total = _source(
            "all", examples_of.total(), refused_of.total(), len(all_pictures), split_counts, names
        )
        out.append({**total, "total": True})
    return out


def _source(
    name: str,
    n_examples: int,
    n_refused: int,
    n_pictures: int,
    split_counts: Mapping[tuple[str, str], int],
    names: Sequence[str],
) -> dict[str, Any]:
    counts = {split: sum(split_counts.get((each, split), 0) for each in names) for split in SPLITS}
    return {
        "name": name,
        "rows_in": n_examples + n_refused,
        "examples": n_examples,
        "refused": n_refused,
        "pictures": n_pictures,
        "splits": counts,
        "bar": share_bar(f"{name}: examples by split", [(s, f"s-{s}", n) for s, n in counts.items()]),
        "total": False,
    }


def refused(quarantine: pa.Table) -> list[dict[str, Any]]:
    """Refused rows by source and reason, most frequent first, each with the detail of its first row."""
    counts: Counter[tuple[str, str, str]] = Counter()
    first: dict[tuple[str, str, str], str] = {}
    for row in quarantine.select(["source", "stage", "reason", "detail"]).to_pylist():
        key = (row["source"], row["stage"], row["reason"])
        counts[key] += 1
        first.setdefault(key, row["detail"])
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"source": key[0], "stage": key[1], "reason": key[2], "n": n, "detail": first[key]}
        for key, n in ranked
    ]


def not_measured(predictions: pa.Table) -> list[dict[str, Any]]:
    """Held-out examples whose picture cannot be read, by policy and reason, each with its first example."""
    rows = predictions.filter(pc.invert(was_measured(predictions))).sort_by("example_id")
    named: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows.select(["policy", "unscorable_reason", "example_id"]).to_pylist():
        named[row["policy"], row["unscorable_reason"]].append(row["example_id"])
    return [
        {"policy": policy, "reason": reason, "n": len(ids), "first": ids[0]}
        for (policy, reason), ids in sorted(named.items())
    ]


def lineage(artifacts: Iterable[Row]) -> list[dict[str, Any]]:
    """One row per artifact, in the order given: the hashes that identify it and what made it."""
    return [
        {
            "kind": a["kind"],
            "name": a["name"],
            "sha256": a["sha256"],
            "producer": a["producer"],
            "n_rows": a.get("n_rows"),
            "seed": a.get("seed"),
            "device": a.get("device"),
            "code": a.get("code_sha256") or "",
            "config": a.get("config_sha256") or "",
            "commit": (a.get("git_commit") or "") + (" with changes" if a.get("dirty") else ""),
            "parents": [p["role"] for p in a.get("parents") or ()],
        }
        for a in artifacts
    ]


def versions(artifacts: Iterable[Row]) -> list[tuple[str, str]]:
    """Every library version that an artifact records, sorted; several where artifacts differ."""
    seen: dict[str, set[str]] = {}
    for artifact in artifacts:
        for name, version in (artifact.get("versions") or {}).items():
            seen.setdefault(str(name), set()).add(str(version))
    return [(name, ", ".join(sorted(found))) for name, found in sorted(seen.items())]
