"""Optimizers and learning-rate schedules.

With warm-up w (in steps) and t steps done, the rate is

    learning_rate * min(1, (t + 1) / w) * decay,

    decay = 1                                                  constant
          = (1 + cos(pi * (t - w) / (steps - w))) / 2          cosine, from t = w on
          = sqrt(w / max(t + 1, w))                            inverse_sqrt
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from sid_jax.errors import InputError
from sid_jax.typing import PyTree


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer.

    Attributes:
      name: adamw, adagrad or sgd (plain, no momentum).
      learning_rate: peak rate.
      warmup_steps: steps of linear warm-up; 0 for none.
      schedule: what follows the warm-up.
      weight_decay: decoupled from the gradient, times the learning rate; leaves biases,
        norms and all else of rank below 2 alone.
      clip_norm: largest global norm of a gradient; 0 for no limit.
    """

    name: Literal["adamw", "adagrad", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "inverse_sqrt"] = "constant"
    weight_decay: float = 0.0
    clip_norm: float = 0.0

    def __post_init__(self):
        for field in ("learning_rate", "warmup_steps", "weight_decay", "clip_norm"):
            if not getattr(self, field) >= 0:
                raise InputError(
                    f"optimizer.{field}={getattr(self, field)} must not be negative"
                )
        if self.name not in _SCALERS:
            raise InputError(
                f"optimizer.name: {self.name!r} is none of {', '.join(_SCALERS)}"
            )
        if self.schedule not in _SCHEDULES:
            raise InputError(
                f"optimizer.schedule: {self.schedule!r} is none of"
                f" {', '.join(_SCHEDULES)}"
            )


def make_optimizer(
    config: OptimizerConfig, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer, and its learning rate by steps done, for a run of `steps`."""
    schedule = make_schedule(config, steps)
    parts = [_SCALERS[config.name](), optax.scale_by_learning_rate(schedule)]
    if config.weight_decay:
        parts.insert(1, optax.add_decayed_weights(config.weight_decay, mask=decayed))
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    return optax.chain(*parts), schedule


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by steps done (see the equations of this module)."""
    warmup = max(config.warmup_steps, 1)

    def schedule(count):
        done = jnp.asarray(count, jnp.float32)
        rate = config.learning_rate * jnp.minimum(1.0, (done + 1) / warmup)
        if config.schedule == "cosine":
            after = steps - config.warmup_steps
            share = jnp.clip((done - config.warmup_steps) / max(after, 1), 0.0, 1.0)
            return rate * (1 + jnp.cos(jnp.pi * share)) / 2
        if config.schedule == "inverse_sqrt":
            return rate * jnp.sqrt(warmup / jnp.maximum(done + 1, warmup))
        return rate

    return schedule


def decayed(params: PyTree) -> PyTree:
    """True for what weight decay shrinks: rank 2 or more, and no bias or norm.

    Names count beside ranks, since layers stacked by a scan raise a bias's rank to 2.
    """

    def is_decayed(path, leaf) -> bool:
        names = {getattr(key, "key", None) for key in path}
        return leaf.ndim >= 2 and not names & {"bias", "scale"}

    return jax.tree_util.tree_map_with_path(is_decayed, params)


_SCHEDULES = ("constant", "cosine", "inverse_sqrt")
_SCALERS = {
    "adamw": optax.scale_by_adam,
    "adagrad": optax.scale_by_rss,
    "sgd": optax.identity,
}
