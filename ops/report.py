"""The report: tables in, one self-contained HTML page out.

Here: what the page says, section by section, as plain values. The looks are in ops/templates/,
the marks in ops/charts.py, the sentences in ops/findings.py, the choice of examples in ops/gallery.py, the
tables of data and lineage in ops/report_tables.py. The same inputs give the same bytes: dates come in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup

from ops import charts, flow_figure, flow_section, gallery, overlays, profile_section, report_tables
from ops.champion import RULE
from ops.charts import Dot, Line
from ops.comparison import METRIC, METRICS, policy_order, references_of
from ops.findings import Evaluations, finding, verdict
from ops.statistics import DRAWS

Row = Mapping[str, Any]
TEMPLATES = Path(__file__).parent / "templates"
CONFLICT, CONTROL = "prior_conflict=conflict", "prior_conflict=control"
_PERCENT = ("accuracy", "format_valid", "map_scorable", "pointing", "accuracy_gap", "evidence_reliance")
_DOMAIN = {"lift": (-0.2, 1.0), "evidence_reliance": (-0.5, 1.0)}
_NATS = ("deletion", "insertion")
_UNIT_TICKS = ((0.0, 0.25, 0.5, 0.75, 1.0), ("0", "25 %", "50 %", "75 %", "100 %"))
_SMOOTH = 9
# column of training_steps, title, note, whether it lies in 0 to 1
CURVES = (
    ("accuracy_mean", "Accuracy reward", "mean of the step", True),
    ("saliency_mean", "Saliency reward", "mean over scorable completions", True),
    ("format_mean", "Format reward", "mean of the step", True),
    ("n_unscorable", "Unscorable completions", "per step, no saliency reward", False),
    ("frac_zero_std", "Groups that teach nothing", "share with all rewards equal", True),
    ("loss", "Loss", "", False),
    ("token_accuracy", "Token accuracy", "share of target tokens ranked first", True),
)
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class ReportInputs:
    """Everything the page is made of; tables as in storage.schema, all sources and policies together.

    pictures: bytes of the pictures named by ops.gallery.pictures_needed and ops.flow_section.pictures_needed.
    contact_sheets: WebP by source. champion: the record of ops.champion.decide. artifacts: lineage records as
    dicts (kind, name, sha256, producer, seed, versions, device, git_commit, dirty, n_rows, parents, ...).
    generated_on: a date as text.
    """

    generated_on: str
    profile: str
    seed: int
    images: pa.Table
    examples: pa.Table
    boxes: pa.Table
    quarantine: pa.Table
    splits: pa.Table
    training_steps: pa.Table
    predictions: pa.Table
    saliency_maps: pa.Table
    token_flows: pa.Table
    evaluations: pa.Table
    champion: Row
    artifacts: Sequence[Row]
    source_profiles: pa.Table
    source_warnings: pa.Table
    contact_sheets: Mapping[str, bytes] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    draws: int = DRAWS


def render(inputs: ReportInputs) -> bytes:
    """The page as UTF-8 HTML. Every text from the data is escaped; nothing is fetched when it is opened."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, signed=signed, grouped=grouped)
    page = environment.get_template("report.html.j2").render(**context(inputs))
    return page.encode("utf-8", errors="replace")


def context(inputs: ReportInputs) -> dict[str, Any]:
    """The values of the template, by section."""
    evaluations = Evaluations(inputs.evaluations.to_pylist())
    policies = policy_order(evaluations.policies)
    style = {name: i for i, name in enumerate(policies)}
    return {
        "css": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704  our own file
        "inputs": inputs,
        "policies": [{"name": name, "style": i, "mark": charts.key_mark(i)} for name, i in style.items()],
        "mark_of": {name: charts.key_mark(i) for name, i in style.items()},
        "finding": finding(evaluations),
        "rule": RULE,
        "champion": inputs.champion,
        "results": _results(evaluations, style),
        "differences": _differences(evaluations, style),
        "kinds": _kinds(evaluations, style),
        "conflict": _conflict(evaluations, style),
        "training": _training(inputs.training_steps, style),
        "smooth": _SMOOTH,
        "gallery": _gallery(inputs),
        "gallery_rule": gallery.RULE,
        "flows": flow_section.figures(
            inputs.champion["champion"],
            inputs.seed,
            inputs.token_flows,
            inputs.predictions,
            inputs.examples,
            inputs.boxes,
            inputs.images,
            inputs.pictures,
        ),
        "flow_rule": flow_figure.RULE,
        "scale_uri": gallery.data_uri(overlays.scale_png(), "image/png"),
        "sources": report_tables.sources(inputs.examples, inputs.quarantine, inputs.splits, inputs.images),
        "quarantine": report_tables.refused(inputs.quarantine),
        "not_measured": report_tables.not_measured(inputs.predictions),
        "profiles": profile_section.sources(
            inputs.source_profiles, inputs.source_warnings, inputs.contact_sheets
        ),
        "lineage": report_tables.lineage(inputs.artifacts),
        "versions": report_tables.versions(inputs.artifacts),
        "metrics": METRICS,
        "draws": inputs.draws,
    }


def number(value: float | None) -> str:
    """Two decimals with a true minus sign; a dash for nothing."""
    return "\N{EN DASH}" if value is None else f"{value:.2f}".replace("-", _MINUS)


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal; a dash for nothing."""
    return "\N{EN DASH}" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%".replace("-", _MINUS)


def signed(value: float | None) -> str:
    """Percentage points with their sign; a dash for nothing."""
    return "\N{EN DASH}" if value is None else f"{100 * value:+.1f}".replace("-", _MINUS)


def grouped(value: int | None) -> str:
    """A count with a comma between thousands; a dash for nothing."""
    return "\N{EN DASH}" if value is None else f"{value:,}"


def _shown(metric: str, value: float | None) -> str:
    return percent(value) if metric in _PERCENT else number(value)


def _interval(metric: str, row: Row) -> str:
    if row["ci_low"] is None or row["ci_high"] is None:
        return "no interval: one picture"
    if metric in _PERCENT:
        low, high = f"{100 * row['ci_low']:.1f}", f"{100 * row['ci_high']:.1f}"
    else:
        low, high = f"{row['ci_low']:.2f}", f"{row['ci_high']:.2f}"
    return f"{low} to {high}".replace("-", _MINUS)


def _dot(row: Row, label: str, style: int, note: str) -> Dot:
    return Dot(label, style, row["value"], row["ci_low"], row["ci_high"], note, row["chance"])


def _results(evaluations: Evaluations, style: Mapping[str, int]) -> list[dict[str, Any]]:
    """Metrics by policies, in two groups: those that do not read the map come first."""
    plain = [(m.name, m.label, m.definition, "all") for m in METRICS if not m.reads_map]
    if CONFLICT in evaluations.subsets:
        plain[1:1] = [
            ("accuracy", "under conflict", "where picture and expectation disagree", CONFLICT),
            ("accuracy", "under control", "the same kind of questions without the disagreement", CONTROL),
        ]
    tests = [(m.name, m.label, m.definition, "all") for m in METRICS if m.intervenes]
    maps = [(m.name, m.label, m.definition, "all") for m in METRICS if m.reads_map and not m.intervenes]
    groups: tuple[tuple[str, list[tuple[str, str, str, str]]], ...] = (
        ("Answers: measures that do not read the map", plain),
        ("Maps put to the test: cells of the picture are filled", tests),
        ("Maps against the evidence boxes: a map can be trained to flatter", maps),
    )
    out = []
    for title, wanted in groups:
        rows: list[dict[str, Any]] = []
        for metric, label, definition, subset in wanted:
            cells = [
                _cell(evaluations.get(name, metric, subset), metric, name, i) for name, i in style.items()
            ]
            rows.append({"label": label, "definition": definition, "cells": cells, "sub": subset != "all"})
        out.append({"title": title, "rows": [row for row in rows if any(c["value"] for c in row["cells"])]})
    return out


def _cell(row: Row | None, metric: str, policy: str, style: int) -> dict[str, Any]:
    if row is None:
        return {"policy": policy, "value": "", "why": "not measured"}
    domain = _nats_domain(row) if metric in _NATS else _DOMAIN.get(metric, (0.0, 1.0))
    return {
        "policy": policy,
        "value": _shown(metric, row["value"]),
        "interval": _interval(metric, row),
        "chance": _shown(metric, row["chance"]),
        "n": grouped(row["n"]),
        "mini": charts.mini_interval(_dot(row, policy, style, ""), domain),
    }


def _nats_domain(row: Row) -> tuple[float, float]:
    """Changes of a log-probability have no range of their own: 0 and all marks fit in."""
    marks = [v for v in (row["value"], row["ci_low"], row["ci_high"], row["chance"], 0.0) if v is not None]
    reach = max(max(marks) - min(marks), 0.02)
    return min(marks) - 0.05 * reach, max(marks) + 0.05 * reach


def _differences(evaluations: Evaluations, style: Mapping[str, int]) -> list[dict[str, Any]]:
    """Forest charts: each policy minus each of its references, on the same examples."""
    wanted = (
        ("accuracy", "Accuracy", "all"),
        ("accuracy", "Accuracy under conflict", CONFLICT),
        ("evidence_reliance", "Evidence reliance", "all"),
        ("deletion", "Deletion: lower is better", "all"),
        ("insertion", "Insertion: higher is better", "all"),
        ("lift", "Lift", "all"),
        ("pointing", "Pointing game", "all"),
    )
    out = []
    for metric, title, subset in wanted:
        dots, table = [], []
        scale, unit = (
            (100.0, "points") if metric in _PERCENT else (1.0, "nats" if metric in _NATS else metric)
        )
        for policy in style:
            for reference in references_of(policy, list(style)):
                row = evaluations.get(policy, metric, subset, reference)
                if row is not None:
                    note = _change(scale, row["value"])
                    dots.append(_dot(row, f"{policy} {_MINUS} {reference}", style[policy], note))
                    table.append({"row": row, "scale": scale, "says": verdict(row)})
        if dots:
            out.append(_forest(title, unit, scale, dots, table, metric))
    return out


def _forest(
    title: str, unit: str, scale: float, dots: list[Dot], table: list[dict[str, Any]], metric: str
) -> dict[str, Any]:
    reach = max(
        abs(v) for dot in dots for v in (dot.value, dot.low, dot.high) if v is not None
    )  # symmetric, so that the zero line stands in the middle
    reach = max(reach * 1.08, 0.02)
    ticks = charts.nice_ticks(-reach, reach, 6)
    chart = charts.interval_rows(
        f"{title}: difference with 95 % interval",
        [Dot(d.label, d.style, d.value, d.low, d.high, d.note) for d in dots],
        (-reach, reach),
        ticks=ticks,
        tick_text=[f"{t * scale:+.3g}".replace("-", _MINUS) if t else "0" for t in ticks],
        zero_line=True,
    )
    rows = [
        {
            "policy": each["row"]["policy"],
            "versus": each["row"]["versus"],
            "value": _change(each["scale"], each["row"]["value"]),
            "low": _change(each["scale"], each["row"]["ci_low"]),
            "high": _change(each["scale"], each["row"]["ci_high"]),
            "n": grouped(each["row"]["n"]),
            "says": {"up": "higher", "down": "lower", "same": "not told apart", "none": "no interval"}[
                each["says"]
            ],
        }
        for each in table
    ]
    return {"title": title, "unit": unit, "chart": chart, "rows": rows, "metric": METRIC[metric].label}


def _change(scale: float, value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{scale * value:+.{1 if scale == 100.0 else 3}f}".replace("-", _MINUS)


def _kinds(evaluations: Evaluations, style: Mapping[str, int]) -> list[dict[str, Any]]:
    """Accuracy of every policy for each question kind."""
    out = []
    for subset in sorted(s for s in evaluations.subsets if s.startswith("kind=")):
        found = [(name, row) for name in style if (row := evaluations.get(name, "accuracy", subset))]
        name = subset.removeprefix("kind=").replace("_", " ")
        dots = [_dot(row, policy, style[policy], percent(row["value"])) for policy, row in found]
        chart = charts.interval_rows(
            f"Accuracy on {name} questions",
            dots,
            (0.0, 1.0),
            ticks=_UNIT_TICKS[0],
            tick_text=_UNIT_TICKS[1],
        )
        chance = found[0][1]["chance"]
        out.append({"name": name, "n": found[0][1]["n"], "chance": chance, "chart": chart})
    return out


def _conflict(evaluations: Evaluations, style: Mapping[str, int]) -> dict[str, Any] | None:
    """Accuracy under control and under conflict of every policy; None where nothing is marked."""
    pairs, rows = [], []
    for policy, i in style.items():
        control = evaluations.get(policy, "accuracy", CONTROL)
        conflict = evaluations.get(policy, "accuracy", CONFLICT)
        gap = evaluations.get(policy, "accuracy_gap", "prior_conflict")
        if control is None or conflict is None:
            continue
        note = "" if gap is None else signed(-gap["value"])
        pairs.append((_dot(control, policy, i, note), _dot(conflict, policy, i, "")))
        rows.append({"policy": policy, "control": control, "conflict": conflict, "gap": gap})
    if not pairs:
        return None
    chart = charts.paired_dots(
        "Accuracy with and without a conflict between picture and expectation",
        pairs,
        ("control", "conflict"),
        ticks=_UNIT_TICKS[0],
        tick_text=_UNIT_TICKS[1],
    )
    return {"chart": chart, "rows": rows}


def _training(steps: pa.Table, style: Mapping[str, int]) -> list[dict[str, Any]]:
    """Curves by stage, all policies of a stage in one panel; only what was logged is drawn."""
    runs: dict[str, dict[str, list[Row]]] = {}
    for row in steps.to_pylist():
        runs.setdefault(row["stage"], {}).setdefault(row["policy_id"].rsplit("@", 1)[0], []).append(row)
    out = []
    for stage, title in (("sft", "Cold start"), ("grpo", "Reinforcement learning (GRPO)")):
        by_policy = {
            name: sorted(runs[stage][name], key=lambda row: row["step"])
            for name in policy_order(runs.get(stage, {}))
        }
        drawn = [panel for wanted in CURVES if (panel := _panel(wanted, by_policy, style))]
        told = [
            {
                "policy": name,
                "style": style.get(name, 0) % 8,
                "n": len(rows),
                "seconds": sum(row["seconds"] or 0.0 for row in rows),
            }
            for name, rows in by_policy.items()
        ]
        if by_policy:
            out.append({"title": title, "runs": told, "panels": drawn})
    return out


def _panel(
    wanted: tuple[str, str, str, bool], by_policy: Mapping[str, Sequence[Row]], style: Mapping[str, int]
) -> dict[str, Any] | None:
    column, title, note, unit_range = wanted
    drawn = []
    for name, rows in by_policy.items():
        values = [_finite(row[column]) for row in rows]
        if any(v is not None for v in values):
            drawn.append(Line(name, style.get(name, 0), [row["step"] for row in rows], values))
    if not drawn:
        return None
    chart = charts.lines(title, drawn, unit_range=unit_range, smooth=_SMOOTH)
    return {"title": title, "note": note, "chart": chart}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _gallery(inputs: ReportInputs) -> list[dict[str, Any]]:
    groups = gallery.choose(inputs.predictions, inputs.examples, inputs.seed)
    shown = [example_id for group in groups for example_id in group.example_ids]
    figures = gallery.figures(
        shown,
        inputs.predictions,
        inputs.examples,
        inputs.boxes,
        inputs.saliency_maps,
        inputs.images,
        inputs.pictures,
    )
    return [{"group": group, "figures": [figures[e] for e in group.example_ids]} for group in groups]
