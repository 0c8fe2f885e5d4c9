import dagster as dg
import pytest

from assets.evidence import RECIPE_TO_POLICY
from assets.partitions import POLICIES
from storage.code import code_of
from training.recipes import RECIPES


def test_the_modules_reached_by_import_are_part_of_the_work() -> None:
    found = code_of("ops.split")
    assert "ops.split" in found
    assert "storage.tables" in found  # imported by ops.split
    assert "storage.schema" in found  # imported by storage.tables
    assert not [name for name in found if name.startswith(("training", "assets", "pipelines"))]


def test_editing_a_report_does_not_train_anew() -> None:
    assert "ops.report" in code_of("ops.report")
    assert not {"ops.report", "ops.champion", "ops.normalise"} & set(code_of("training.grpo"))
    assert {"training.trainer", "training.saliency", "training.rewards"} <= set(code_of("training.grpo"))
    assert "training.evaluate" not in code_of("training.grpo")


def test_an_unknown_module_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        code_of("ops.nothing_of_the_kind")


def test_each_evaluated_policy_comes_from_its_recipe_or_from_none() -> None:
    recipes = dg.StaticPartitionsDefinition(list(RECIPES))
    for policy in POLICIES.get_partition_keys():
        subset = POLICIES.empty_subset().with_partition_keys([policy])
        upstream = RECIPE_TO_POLICY.get_upstream_mapped_partitions_result_for_partitions(
            subset, POLICIES, recipes
        )
        wanted = [policy] if policy in RECIPES else []
        assert list(upstream.partitions_subset.get_partition_keys()) == wanted
