"""The two trainers: TRL's, restoring every weight on resume, and GRPO with the saliency map as a reward.

Belongs here: where the map is recorded and how it reaches the rewards. Not here: the map
(`training/saliency.py`), the rewards (`training/rewards.py`), settings and files of a stage
(`training/grpo.py`, `training/sft.py`).

Private methods of TRL 1.16 are overridden; tests/training/test_trainer.py holds their signatures and the
order of forwards that this relies on.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl import GRPOTrainer, SFTTrainer

from training.answers import CORRECT_FROM
from training.checkpoints import RestoresEveryWeight
from training.map_loss import contrast, has_map
from training.policy import Policy
from training.progress import UNSCORABLE
from training.recipes import Recipe
from training.rewards import REWARD_FUNCTIONS
from training.saliency import SaliencyMap, record_maps
from training.stage import StageError
from training.teacher_forcing import Located


class ResumableSFTTrainer(RestoresEveryWeight, SFTTrainer):
    """TRL's SFTTrainer that resumes full fine-tuning with the weights of the checkpoint."""


@dataclass(frozen=True)
class MapSettings:
    """Which saliency map is rewarded: a method and row convention of training.saliency."""

    method: str = "cot_rollout"
    rows: str = "predictor"


class _Right(NamedTuple):
    """Whether a completion is right, and its evidence in pixels of the picture as stored."""

    right: bool
    boxes: Sequence[Sequence[float]]
    image_wh: tuple[int, int]


def _contrast_of(judged: _Right, signed: Tensor | None, located: Located) -> Tensor | str:
    """The contrast of a completion's signed map, or why it has none."""
    if signed is None or located.layout is None:
        return str(located.reason)
    return contrast(signed, judged.boxes, judged.image_wh, located.layout.region)


def _told(found: Tensor | str, alive: bool) -> float | str:
    """What is counted of a right completion: its contrast, or why it has no map. A map without a positive cell has a
    contrast to learn from, and is a dead one all the same."""
    if isinstance(found, str):
        return found
    return found.item() if alive else "zero_map"


class SaliencyGRPOTrainer(RestoresEveryWeight, GRPOTrainer):
    """GRPO whose rewards may read a saliency map of each completion, without a forward pass of its own.

    A round of sampling is: generate; recompute the old policy's log-probabilities without gradient; the same
    for the reference policy when beta > 0; rewards; later, losses. The first no-grad pass of a round runs
    over prompt and completion with the policy that sampled them: the map is recorded there. TRL makes that
    pass when steps_per_generation x num_iterations does not divide gradient_accumulation, whatever the
    recipe. Where it would leave it out (one round per optimiser step), a recipe that rewards saliency asks
    for it: one more no-grad forward per round, whose log-probabilities also serve as the old ones (the ratio
    is then 1 up to rounding).

    A recipe with a `loss_weight` adds to the loss of each micro-batch what the maps of its right completions lack:
    weight times 1 - contrast (`training/map_loss.py`), summed over them and divided by the micro-batch's size. Its
    maps keep their graph and ride on the pass that the loss makes anyway.

    The rewards see the dataset's columns and `saliency`, one SaliencyMap per completion, and stay plain
    functions. Completions reach them as decoded from the sampled ids up to the end token, special tokens
    included.

    on_round is called once per round with a dict per completion: step, example_id, completion,
    reward_<component>, unscorable_reason, reward, advantage (None where there is none), from all processes,
    on the main one only.
    """

    def __init__(
        self,
        policy: Policy,
        recipe: Recipe,
        *,
        maps: MapSettings | None = None,
        on_round: Callable[[list[dict[str, Any]]], None] | None = None,
        **kwargs: Any,
    ) -> None:
        self.policy = policy
        self.recipe = recipe
        self.maps = maps or MapSettings()
        self.on_round = on_round
        self._recorder_armed = False
        self._round_maps: list[SaliencyMap] | None = None
        self._round: dict[str, Any] = {}
        self._unscorable: Counter[str] = Counter()
        self._n_completions = 0
        self._signed: list[Tensor | None] | None = None
        self._located: list[Located] = []
        self._right: list[_Right] = []
        self._sizes_wh: list[tuple[int, int]] = []
        self._contrasts: list[float] = []
        super().__init__(
            model=policy.model,
            processing_class=policy.processor,
            reward_funcs=[REWARD_FUNCTIONS[name] for name in recipe.rewards],
            **kwargs,
        )

    @property
    def records_maps(self) -> bool:
        """Whether the recipe rewards saliency."""
        return "saliency" in self.recipe.rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._recorder_armed = self.records_maps
        self._round_maps = None
        self._sizes_wh = [tuple(row["image_wh"]) for row in inputs]
        try:
            with self._old_policy_pass():
                output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self._recorder_armed = False
        if self.model is not None and self.model.training:
            self._tell_round(inputs, output["advantages"].tolist())
            if self.recipe.loss_weight:
                self._right = self._judged(inputs)
                output["completion_index"] = torch.arange(
                    len(inputs)
                )  # shuffled and split as all the rest is
        return output

    def _judged(self, inputs: list[dict[str, Any]]) -> list[_Right]:
        """Which completions of the round are right, and where their evidence is."""
        points = self._round["rewards"][:, self.recipe.rewards.index("accuracy")].tolist()
        return [
            _Right(point >= CORRECT_FROM[row["answer_type"]], row["boxes"], tuple(row["image_wh"]))
            for point, row in zip(points, inputs, strict=True)
        ]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if not self.recipe.loss_weight or not model.training:
            return cast(Tensor, super()._compute_loss(model, inputs))
        judged = [self._right[i] for i in inputs["completion_index"].tolist()]
        self._signed, self._sizes_wh = None, [each.image_wh for each in judged]
        loss = super()._compute_loss(model, inputs)
        if self._signed is None:
            raise StageError("the loss made no pass with gradients: no map was recorded to add to it")
        passed = zip(judged, self._signed, self._located, strict=True)
        found = [_contrast_of(each, signed, located) for each, signed, located in passed if each.right]
        alive = [
            s is not None and has_map(s) for each, s in zip(judged, self._signed, strict=True) if each.right
        ]
        told = gather_object([_told(each, living) for each, living in zip(found, alive, strict=True)])
        self._contrasts += [each for each in told if isinstance(each, float)]
        self._unscorable.update(each for each in told if isinstance(each, str))
        lacking = [1 - each for each in found if isinstance(each, Tensor)]
        if not lacking:
            return cast(Tensor, loss)
        share = self.recipe.loss_weight / len(judged) / self.current_gradient_accumulation_steps
        return cast(Tensor, loss + share * torch.stack(lacking).sum())

    @contextmanager
    def _old_policy_pass(self) -> Iterator[None]:
        """Let TRL see a misaligned round while it samples, so that it makes the old policy's pass."""
        arguments: Any = self.args
        iterations, accumulation = self.num_iterations, arguments.gradient_accumulation_steps
        aligned = accumulation % (arguments.steps_per_generation * iterations) == 0
        if self.records_maps and aligned:
            self.num_iterations = accumulation + 1
        try:
            yield
        finally:
            self.num_iterations = iterations

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        passed = (model, input_ids, attention_mask, logits_to_keep, *args)
        lost = bool(self.recipe.loss_weight) and torch.is_grad_enabled()
        if not lost and (not self._recorder_armed or torch.is_grad_enabled()):
            return super()._get_per_token_logps_and_entropies(*passed, **kwargs)
        if not lost:
            self._recorder_armed = False  # the next no-grad pass of the round is the reference policy's
        tensors = {name: value for name, value in kwargs.items() if isinstance(value, torch.Tensor)}
        with record_maps(
            replace(self.policy, model=self.accelerator.unwrap_model(self.model)),
            {"input_ids": input_ids, "attention_mask": attention_mask, **tensors},
            input_ids.shape[1] - logits_to_keep,
            method=self.maps.method,
            rows=self.maps.rows,
            image_sizes_wh=self._sizes_wh,
            differentiable=lost,
        ) as recorder:
            result = super()._get_per_token_logps_and_entropies(*passed, **kwargs)
        if lost:
            self._signed, self._located = recorder.signed, list(recorder.samples)
        else:
            self._round_maps = recorder.maps()
        return result

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        texts = [self._decode(ids) for ids in completion_ids_list]
        if self.records_maps:
            if self._round_maps is None:
                raise StageError("no pass without gradient came before the rewards: the map was not recorded")
            inputs = [{**row, "saliency": each} for row, each in zip(inputs, self._round_maps, strict=True)]
        said = [[{"role": "assistant", "content": text}] for text in texts]
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, said, completion_ids_list)
        reasons = list(self._pending_extra_logs.get("unscorable_reason", [])) or [None] * len(texts)
        first = self.accelerator.process_index * len(texts)
        self._round = {"texts": texts, "reasons": reasons, "rewards": rewards[first : first + len(texts)]}
        return rewards

    def _decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids up to the end token."""
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        said = list(takewhile(lambda token: int(token) not in ends, ids))
        return str(self._tokenizer.decode(said, skip_special_tokens=False))

    def _tell_round(self, inputs: list[dict[str, Any]], advantages: list[float]) -> None:
        """Count the round and hand its completions on."""
        weights = torch.tensor(self.recipe.weights, device=self._round["rewards"].device)
        totals = (self._round["rewards"] * weights).nansum(dim=1).tolist()
        rows = []
        for index, parts in enumerate(self._round["rewards"].tolist()):
            named = {
                f"reward_{name}": None if part != part else part
                for name, part in zip(self.recipe.rewards, parts, strict=True)
            }
            rows.append(
                {"step": self.state.global_step + 1, "example_id": inputs[index].get("example_id")}
                | {"completion": self._round["texts"][index], **named}
                | {"unscorable_reason": self._round["reasons"][index]}
                | {"reward": totals[index], "advantage": advantages[index]}
            )
        rows = gather_object(rows)
        self._n_completions += len(rows)
        self._unscorable.update(row["unscorable_reason"] for row in rows if row["unscorable_reason"])
        if self.on_round is not None and self.accelerator.is_main_process:
            self.on_round(rows)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds how many completions had no map to reward or to learn from, in all and by reason, and the contrasts."""
        counted = self.records_maps and self._n_completions
        if "loss" in logs and (counted or self.recipe.loss_weight):
            logs["n_unscorable"] = self._unscorable.total()
            logs |= {UNSCORABLE + reason: n for reason, n in sorted(self._unscorable.items())}
            self._unscorable.clear()
            self._n_completions = 0
        if "loss" in logs and self.recipe.loss_weight:
            logs["n_maps"] = len(self._contrasts)
            if self._contrasts:
                logs["map_contrast_mean"] = sum(self._contrasts) / len(self._contrasts)
            self._contrasts.clear()
        super().log(logs, start_time)
