import dagster as dg

from pipelines.definitions import build_defs
from pipelines.jobs import JOB_NAMES, Step, steps_of
from tests.assets.small_world import SmallWorld

POLICIES = ("base", "cold_start", "accuracy", "saliency_r1", "saliency_loss")


def test_everything_is_the_three_jobs_in_order() -> None:
    parts = [steps_of(job, ["a"], POLICIES) for job in ("prepare_data", "train", "evaluate")]
    assert steps_of("everything", ["a"], POLICIES) == [step for part in parts for step in part]


def test_partitions_come_in_order_and_every_job_ends_with_the_catalogue() -> None:
    for job in ("prepare_data", "train", "evaluate"):
        assert "data/catalog" in steps_of(job, ["a"], POLICIES)[-1].assets
    partitions = [step.partition for step in steps_of("everything", ["a", "b"], POLICIES)]
    assert partitions == ["a", "b", None, None, *POLICIES[2:], None, *POLICIES, None]
    assert Step("train", ("policy/grpo",), "accuracy").title == "policy/grpo [accuracy]"


def test_every_asset_is_in_a_step_whose_job_selects_it(world: SmallWorld) -> None:
    definitions = build_defs(given=world.given)
    steps = steps_of("everything", ["a"], POLICIES)
    assert {name for step in steps for name in step.assets} == {
        key.to_user_string() for key in definitions.resolve_all_asset_keys()
    }
    for step in steps:
        selected = definitions.resolve_job_def(step.job).asset_layer.selected_asset_keys
        assert {dg.AssetKey(name.split("/")) for name in step.assets} <= set(selected), step


def test_jobs_schedules_and_sensors_are_there_and_off(world: SmallWorld) -> None:
    definitions = build_defs(given=world.given)
    names = {job.name for job in definitions.resolve_all_job_defs()}
    assert {*JOB_NAMES[:3], "retrain", "upkeep"} <= names
    schedule = definitions.resolve_schedule_def("weekly_retraining")
    sensor = definitions.resolve_sensor_def("changed_sources")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert (schedule.cron_schedule, schedule.job_name) == ("0 3 * * 1", "retrain")
    assert sensor.job_name == "retrain"


def test_training_holds_the_one_slot_of_the_pool_gpu(world: SmallWorld) -> None:
    graph = build_defs(given=world.given).resolve_asset_graph()
    pools = {key.to_user_string(): graph.get(key).pools for key in graph.materializable_asset_keys}
    with_gpu = {name for name, pool in pools.items() if "gpu" in pool}
    assert with_gpu == {
        *("policy/base", "policy/cold_start", "policy/grpo"),
        *("evidence/predictions", "evidence/saliency_maps"),
    }


def test_resources_can_be_replaced(world: SmallWorld) -> None:
    definitions = build_defs({"scratch": world.folder}, world.given)
    assert definitions.resources is not None
    assert definitions.resources["scratch"] == world.folder
