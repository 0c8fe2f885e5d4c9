"""Recipes: named, frozen sets of rewards and weights, one policy each.

What a reward is belongs to `training/rewards.py`, the map as a loss to `training/map_loss.py`, settings of a run to
`training/config.py`. No torch: definitions name their partitions by these.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A named set of rewards: the total is the weighted sum of the components in `rewards`.

    loss_weight: of the map as a loss on right completions (`training/map_loss.py`); 0: the map is no loss.
    """

    name: str
    rewards: tuple[str, ...]
    weights: tuple[float, ...]
    description: str
    loss_weight: float = 0.0

    @property
    def n_signals(self) -> int:
        """How many things the recipe trains on: the fewer, the simpler."""
        return len(self.rewards) + (self.loss_weight > 0)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "accuracy", ("format", "accuracy"), (1.0, 1.0), "format and accuracy; the map is not rewarded"
        ),
        Recipe(
            "saliency_r1",
            ("format", "accuracy", "saliency"),
            (1.0, 1.0, 1.0),
            "the paper's recipe: format, accuracy and the share of the map inside the evidence boxes",
        ),
        Recipe(
            "saliency_loss",
            ("format", "accuracy"),
            (1.0, 1.0),
            "format and accuracy as rewards; the signed map of right completions, evidence against the rest, as a loss",
            loss_weight=1.0,
        ),
    )
}
