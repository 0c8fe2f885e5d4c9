"""Settings as the arguments that transformers, TRL and PEFT take: what SFT and GRPO share.

Belongs here: one name of ours to one of theirs, and which modules adapters go to. Not here: allowed values
(`training/config.py`).
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from training.checkpoints import CHECKPOINTS
from training.config import GrpoSettings, SftSettings, StageConfig
from training.policy import Policy, load_policy
from training.stage import StageError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_for(config: StageConfig) -> Policy:
    """The configured policy in the configured precision, on the accelerator where there is one."""
    return load_policy(config.policy, dtype=_DTYPES[config.settings.precision])


def shared_arguments(
    config: StageConfig, settings: SftSettings | GrpoSettings, device: str
) -> dict[str, Any]:
    """Keyword arguments for SFTConfig and GRPOConfig."""
    return {
        "output_dir": str(config.work_path / CHECKPOINTS),
        "seed": config.seed,
        "use_cpu": device == "cpu",
        "bf16": settings.precision == "bfloat16",
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_scheduler if settings.warmup_ratio == 0 else _with_warmup(settings),
        "warmup_steps": settings.warmup_ratio,  # below 1 it is a share of all steps
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "use_cache": not settings.gradient_checkpointing,  # goes into the saved configuration
        "logging_steps": settings.logging_steps,
        "logging_nan_inf_filter": False,  # a loss that is not finite must be seen
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,  # the newest may be cut short by a kill
        "report_to": "none",
        "disable_tqdm": True,  # training.progress has its own bar
        "dataloader_pin_memory": device != "cpu",
        "remove_unused_columns": False,
    }


def _with_warmup(settings: SftSettings | GrpoSettings) -> str:
    return "constant_with_warmup" if settings.lr_scheduler == "constant" else settings.lr_scheduler


def lora_config(policy: Policy, settings: SftSettings | GrpoSettings) -> LoraConfig | None:
    """Adapters on the named linear maps of the text layers; None when every weight is trained.

    PEFT matches names by their ending, which would put adapters into the vision tower too, and leaves out
    silently what it does not find: here each target must be there. Raises StageError.
    """
    if settings.lora_rank == 0:
        return None
    layers: Any = policy.family.text_model(policy.model).layers
    prefix = _name_of(policy.model, layers)
    linear = [name for name, module in layers.named_modules() if isinstance(module, nn.Linear)]
    endings = sorted({name.rpartition(".")[2] for name in linear})
    missing = [target for target in settings.lora_targets if target not in endings]
    if missing:
        raise StageError(
            f"settings.lora_targets: no linear map is named {', '.join(missing)} in the text layers of "
            f"{policy.family.name}; there are {', '.join(endings)}"
        )
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=[
            f"{prefix}.{name}" for name in linear if name.rpartition(".")[2] in settings.lora_targets
        ],
        task_type="CAUSAL_LM",
    )


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`; what a killed run left there is removed."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
