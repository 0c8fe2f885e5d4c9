"""When retraining starts by the clock. Off until somebody turns it on."""

import dagster as dg

from pipelines.jobs import retrain

weekly_retraining = dg.ScheduleDefinition(
    name="weekly_retraining",
    target=retrain,
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Mondays at 3: everything, partition by partition. What is unchanged is found, not computed.",
)
