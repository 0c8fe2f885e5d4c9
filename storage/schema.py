"""The columns of every table: names, types, what each holds, and the closed lists of reasons.

Only the shape of the data belongs here: no reading, writing or filling. A new column is added here, with its
description and a higher SCHEMA_VERSION, and in the verb that fills it.
"""

import pyarrow as pa

from storage.columns import column as _column
from storage.columns import maybe as _maybe
from storage.columns import region
from storage.data_columns import BOXES, EXAMPLE_ID, EXAMPLES, IMAGE, IMAGES, QUARANTINE, SPLITS
from storage.flow_columns import FLOW_COLUMNS
from storage.processed_columns import NO_PICTURE, NOT_FITTING, PROCESSED_COLUMNS
from storage.profile_columns import PROFILE_UNITS, SOURCE_PROFILES, SOURCE_WARNINGS, WARNING_KINDS

SCHEMA_VERSION = 5

QUARANTINE_STAGES = ("read", "picture", "box", "question", "split")

REASONS = (
    "missing_file",
    "unreadable_file",
    "broken_json",
    "broken_file",
    "missing_field",
    "bad_box_format",
    "nan_box",
    "swapped_corners",
    "zero_area_box",
    "box_outside_picture",
    "unknown_image",
    "undecodable_picture",
    "picture_too_large",
    "no_answer",
    "no_question",
    "no_boxes",
    "unsafe_path",
    "duplicate_example",
    "unsupported",
)

UNSCORABLE = (
    "no_thought",
    "empty_answer",
    "truncated",
    "zero_map",
    "no_boxes",
    "evidence_not_seen",
    "box_covers_everything",
    "image_tokens_cut",
    "image_token_emitted",
    "format_invalid",
    *NO_PICTURE,
)

UNMASKED = ("no_boxes", "evidence_not_seen", "no_room")
"""Why evidence cannot be held against an equal mask elsewhere: none (seen), or too few cells beside it."""

# Closed lists of values, by (table, column); None is always allowed where the column is nullable.
ALLOWED_VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("examples", "answer_type"): ("word", "yes_no", "number", "choice", "text"),
    ("examples", "condition"): ("conflict", "control"),
    ("quarantine", "stage"): QUARANTINE_STAGES,
    ("quarantine", "reason"): REASONS,
    ("source_profiles", "unit"): PROFILE_UNITS,
    ("source_warnings", "kind"): WARNING_KINDS,
    ("splits", "split"): ("train", "val", "test", "excluded"),
    ("processed_rows", "split"): ("train", "val", "test"),
    ("processed_rows", "reason"): NOT_FITTING,
    ("training_steps", "stage"): ("sft", "grpo"),
    ("completions", "unscorable_reason"): UNSCORABLE,
    ("predictions", "unscorable_reason"): UNSCORABLE,
    ("predictions", "unmasked_reason"): UNMASKED,
    ("saliency_maps", "rows"): ("predictor", "state"),
    ("token_flows", "rows"): ("predictor", "state"),
    ("token_flows", "unscorable_reason"): UNSCORABLE,
    ("faithfulness", "rows"): ("predictor", "state"),
    ("faithfulness", "versus"): ("random", "predictor", "state", "cot_rollout:predictor"),
}


_TEXT = pa.string()
_F64 = pa.float64()
_I32 = pa.int32()
_I64 = pa.int64()
_BYTES = pa.binary()
_BOOL = pa.bool_()

_POLICY_ID = _column(
    "policy_id", _TEXT, "the policy's name and the first 12 hex digits of the work that made it"
)
_POLICY = _column("policy", _TEXT, "the policy's name: base, cold_start or a recipe")
_COMPLETION_SHA = _column("completion_sha256", _TEXT, "sha256 of the completion's UTF-8 text")
_COMPLETION_SHA_OR_NONE = _maybe(
    "completion_sha256", _TEXT, "sha256 of the completion's UTF-8 text; null where nothing was said"
)
_UNSCORABLE = _maybe(
    "unscorable_reason", _TEXT, "why no map could be scored, from a closed list; null = scored"
)
_MASS = _maybe(
    "mass", _F64, "share of the map inside the union of the evidence boxes, 0 to 1; read beside chance"
)
_CHANCE = _maybe("chance", _F64, "mass of a uniform map: the evidence's share of the map's region")
_LIFT = _maybe("lift", _F64, "(mass - chance) / (1 - chance): 0 = a uniform map, 1 = all inside the evidence")
_POINTING = _maybe("pointing_hit", _BOOL, "whether the map's highest cell lies on the evidence")
_IOU = _maybe("iou_area", _F64, "overlap (IoU) of the evidence with the map's top cells of the same area")
_AUROC = _maybe("auroc", _F64, "area under the ROC curve of the cells against the evidence; chance is 0.5")

_PROCESSED_ROWS = pa.schema(
    [
        _POLICY_ID,
        EXAMPLE_ID,
        IMAGE,
        _column("split", _TEXT, "the row's side: train, val or test"),
        *PROCESSED_COLUMNS,
    ]
)

_TRAINING_STEPS = pa.schema(
    [
        _POLICY_ID,
        _column("stage", _TEXT, "sft or grpo"),
        _column("step", _I32, "optimiser step, from 1"),
        _maybe("loss", _F64, "training loss of the step"),
        _maybe("reward_mean", _F64, "mean weighted reward of the step's completions"),
        _maybe("reward_std", _F64, "its standard deviation"),
        _maybe("format_mean", _F64, "mean format reward"),
        _maybe("format_std", _F64, "standard deviation of the format reward"),
        _maybe("accuracy_mean", _F64, "mean accuracy reward"),
        _maybe("accuracy_std", _F64, "standard deviation of the accuracy reward"),
        _maybe("saliency_mean", _F64, "mean saliency reward over the scorable completions"),
        _maybe("saliency_std", _F64, "standard deviation of the saliency reward"),
        _maybe("frac_zero_std", _F64, "share of groups whose rewards were all equal: they teach nothing"),
        _maybe(
            "n_unscorable",
            _I32,
            "completions without a saliency reward; right ones without a map to learn from",
        ),
        _maybe("unscorable_by_reason", _TEXT, "their number by reason, as a JSON object"),
        _maybe("n_maps", _I32, "right completions whose map took part in the loss (recipes with a map loss)"),
        _maybe(
            "map_contrast_mean",
            _F64,
            "their mean contrast, evidence against the rest of the signed map: -1 to 1, 0 = a uniform map",
        ),
        _maybe("completion_tokens_mean", _F64, "mean completion length in tokens"),
        _maybe("entropy", _F64, "mean entropy of the policy's next-token distribution in nats"),
        _maybe("grad_norm", _F64, "gradient norm before clipping"),
        _maybe("learning_rate", _F64, "learning rate of the step"),
        _maybe("token_accuracy", _F64, "share of target tokens ranked first (sft)"),
        _maybe("seconds", _F64, "wall time of the step in seconds"),
    ]
)

_COMPLETIONS = pa.schema(
    [
        _POLICY_ID,
        _column("step", _I32, "optimiser step that sampled the completion, from 1"),
        EXAMPLE_ID,
        _column("completion", _TEXT, "the sampled text"),
        _maybe("reward_format", _F64, "format reward"),
        _maybe("reward_accuracy", _F64, "accuracy reward; null = the answer could not be judged"),
        _maybe("reward_saliency", _F64, "saliency reward; null = unscorable"),
        _UNSCORABLE,
        _maybe("reward", _F64, "weighted sum that the trainer used"),
        _maybe("advantage", _F64, "advantage within the completion's group"),
    ]
)

_PREDICTIONS = pa.schema(
    [
        _POLICY_ID,
        _POLICY,
        EXAMPLE_ID,
        IMAGE,
        _maybe(
            "completion", _TEXT, "the whole text that the policy wrote; null where its picture cannot be read"
        ),
        _COMPLETION_SHA_OR_NONE,
        _maybe("thought", _TEXT, "the text between the think tags; null when there is none"),
        _maybe("answer", _TEXT, "the text after the thought; null when there is none"),
        _maybe(
            "correct",
            _BOOL,
            "whether the scorer of the answer type accepts the answer; null = its picture cannot be read",
        ),
        _maybe("accuracy_score", _F64, "the scorer's value, 0 to 1"),
        _maybe("format_valid", _BOOL, "whether the completion has the wanted form"),
        _maybe("truncated", _BOOL, "whether the length limit cut the completion"),
        _maybe("n_tokens", _I32, "completion length in tokens"),
        _MASS,
        _CHANCE,
        _LIFT,
        _POINTING,
        _maybe("pointing_chance", _F64, "share of cells on which pointing would be a hit"),
        _AUROC,
        _maybe("ap", _F64, "average precision of the cells against the evidence; read beside ap_chance"),
        _maybe("ap_chance", _F64, "its mean over the map's own values shuffled among the cells"),
        _maybe("iou_chance", _F64, "mean of iou_area over random cells of the same total area"),
        _IOU,
        _maybe(
            "entropy",
            _F64,
            "entropy of the map as a distribution over cells, divided by that of a uniform map",
        ),
        _UNSCORABLE,
        _maybe("map_id", _TEXT, "the archived map; null when there is none"),
        _maybe(
            "deletion_auc",
            _F64,
            "mean change of the log-probability of thought and answer in nats while cells are filled, strongest "
            "first; lower is better; null where not measured",
        ),
        _maybe(
            "insertion_auc",
            _F64,
            "the same while only the strongest cells are kept, more and more of them; higher is better",
        ),
        _maybe("random_deletion_auc", _F64, "deletion_auc of a random order of the cells: its chance"),
        _maybe("random_insertion_auc", _F64, "insertion_auc of the same random order: its chance"),
        _maybe(
            "correct_evidence_masked",
            _BOOL,
            "whether the answer is right when the cells of the evidence are filled; null where not measured",
        ),
        _maybe(
            "correct_elsewhere_masked",
            _BOOL,
            "whether it is right when as many cells beside the evidence are filled",
        ),
        _maybe(
            "unmasked_reason",
            _TEXT,
            "why no equal mask beside the evidence was to be had, from a closed list",
        ),
    ]
)

_SALIENCY_MAPS = pa.schema(
    [
        _column("map_id", _TEXT, "24 hex digits, hash of policy, example, completion, method and span"),
        _POLICY_ID,
        _POLICY,
        EXAMPLE_ID,
        IMAGE,
        _COMPLETION_SHA,
        _column("method", _TEXT, "how the map was computed, such as cot_rollout"),
        _column("rows", _TEXT, "which query stands for a token: its predictor or its own state"),
        _column("span", _TEXT, "which tokens the map explains"),
        _column("grid_h", _I32, "rows of the token grid"),
        _column("grid_w", _I32, "columns of the token grid"),
        _column("image_w_px", _I32, "width of the upright picture in pixels"),
        _column("image_h_px", _I32, "height of the upright picture in pixels"),
        *region(_column),
        _column("values", _BYTES, "grid_h x grid_w float16, little-endian, row-major"),
        _MASS,
        _CHANCE,
        _LIFT,
        _POINTING,
        _IOU,
        _AUROC,
    ]
)

_TOKEN_FLOWS = pa.schema(
    [
        _column("flow_id", _TEXT, "24 hex digits, hash of policy, example, completion and rows"),
        _POLICY_ID,
        _POLICY,
        EXAMPLE_ID,
        IMAGE,
        _COMPLETION_SHA_OR_NONE,
        _column("rows", _TEXT, "which query stands for a token: its predictor or its own state"),
        _maybe("unscorable_reason", _TEXT, "why there is no flow, from a closed list; null = there is one"),
        *FLOW_COLUMNS,
    ]
)

_EVALUATIONS = pa.schema(
    [
        _POLICY_ID,
        _POLICY,
        _column("metric", _TEXT, "what was measured, such as accuracy, lift or mass"),
        _column("subset", _TEXT, "which examples: all, kind=colour, source=scenes, prior_conflict=conflict"),
        _column("value", _F64, "the measured value, or the paired difference policy - versus"),
        _maybe("ci_low", _F64, "lower end of the 95 % interval; null where too few pictures give none"),
        _maybe("ci_high", _F64, "upper end of the 95 % interval; null where too few pictures give none"),
        _column("n", _I64, "number of examples behind the value"),
        _maybe("chance", _F64, "value expected without looking; null where no such value exists"),
        _maybe("versus", _TEXT, "the policy subtracted, when the value is a paired difference"),
    ]
)

_FAITHFULNESS = pa.schema(
    [
        _POLICY_ID,
        _POLICY,
        _maybe("method", _TEXT, "how the maps were computed; null where the measure reads no map"),
        _maybe("rows", _TEXT, "which query stands for a token; null where the measure reads no map"),
        _column(
            "metric",
            _TEXT,
            "what was measured, such as deletion_auc, insertion_auc_completion, sanity_layer_2, or cost_ratio: median "
            "processor time of making such a map over that of a cot_rollout:predictor map",
        ),
        _column("value", _F64, "the measured value, or the paired difference to versus"),
        _maybe("ci_low", _F64, "lower end of the 95 % interval; null where too few pictures give none"),
        _maybe("ci_high", _F64, "upper end of the 95 % interval; null where too few pictures give none"),
        _column("n", _I64, "number of examples behind the value"),
        _maybe("chance", _F64, "the value of a random order of the cells, or of no effect"),
        _maybe("versus", _TEXT, "what was subtracted on the same examples: random, or rows, or method:rows"),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "images": IMAGES,
    "examples": EXAMPLES,
    "boxes": BOXES,
    "quarantine": QUARANTINE,
    "source_profiles": SOURCE_PROFILES,
    "source_warnings": SOURCE_WARNINGS,
    "splits": SPLITS,
    "processed_rows": _PROCESSED_ROWS,
    "training_steps": _TRAINING_STEPS,
    "completions": _COMPLETIONS,
    "predictions": _PREDICTIONS,
    "saliency_maps": _SALIENCY_MAPS,
    "token_flows": _TOKEN_FLOWS,
    "evaluations": _EVALUATIONS,
    "faithfulness": _FAITHFULNESS,
}

TABLE_DESCRIPTIONS: dict[str, str] = {
    "images": "one distinct picture",
    "examples": "one question about one picture",
    "boxes": "one evidence box",
    "quarantine": "one refused row",
    "source_profiles": "one figure about one source",
    "source_warnings": "one sign that a source's boxes were read by the wrong convention",
    "splits": "one example's place",
    "processed_rows": "one example as a policy's processor makes it, and whether it fits",
    "training_steps": "one optimiser step",
    "completions": "one sampled completion in training",
    "predictions": "one answer of one policy on one held-out example",
    "saliency_maps": "one saliency map",
    "token_flows": "one answer, token by token: from picture through thought to answer",
    "evaluations": "one metric of one policy on one subset",
    "faithfulness": "one measure of how true one kind of map is to one policy",
}

ROW_KEYS: dict[str, tuple[str, ...]] = {
    "images": ("image_sha256", "source"),
    "examples": ("example_id",),
    "boxes": ("example_id", "box_index"),
    "quarantine": ("source", "source_file", "source_row", "reason", "detail"),
    "source_profiles": ("source", "measure", "subset", "bucket"),
    "source_warnings": ("source", "kind"),
    "splits": ("example_id",),
    "processed_rows": ("policy_id", "example_id"),
    "training_steps": ("policy_id", "step"),
    "completions": ("policy_id", "step", "example_id", "completion"),
    "predictions": ("policy_id", "example_id"),
    "saliency_maps": ("map_id",),
    "token_flows": ("flow_id",),
    "evaluations": ("policy_id", "metric", "subset", "versus"),
    "faithfulness": ("policy_id", "metric", "method", "rows", "versus"),
}
"""The columns that name a row of each table. Rows of quarantine and completions may still be alike."""
