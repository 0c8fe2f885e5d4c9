"""What the assets are given: the types of the resources that the pipelines inject.

Values and call signatures belong here. Reading a profile from disk, starting a process and choosing a root
belong to the pipelines, which make these objects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from storage.lineage import Artifact, Work

Observe = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class Profile:
    """One way to run the graph: which policy, which recipes, and the settings of every stage.

    stages: stage name (base, process, sft, grpo, evaluate) -> every setting of it, defaults filled in.
    split_fractions: share of the pictures per held-out side (val, test). draws: bootstrap resamples.
    command: what stands before `training.<stage> CONFIG.json`; empty: this interpreter with -m.
    """

    name: str
    description: str
    seed: int
    policy: str
    recipes: tuple[str, ...]
    stages: Mapping[str, Mapping[str, Any]]
    split_fractions: Mapping[str, float]
    draws: int
    command: tuple[str, ...] = ()

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the policies that are evaluated, in the order in which they come to be."""
        return ("base", "cold_start", *self.recipes)


class Launch(Protocol):
    """Runs one training stage in a process of its own, or finds it done.

    `config` holds policy, policy_name, policy_id, tables and settings of `training.config.StageConfig`;
    stage, root, work_dir and seed are added. `observe` gets the numbers of a logged step now and then.
    """

    def __call__(
        self, stage: str, work: Work, config: Mapping[str, Any], observe: Observe
    ) -> dict[str, Artifact]:
        """The stage's outputs by name."""
        ...
