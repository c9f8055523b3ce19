"""What every training here shares: a learning rate, averaged weights, a log, and checkpoints from which it goes on.

A run that was killed goes on from its last checkpoint; how far it came is counted in steps and never in time, so that
a slower machine makes the same model, only later.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

_CHECKPOINT_SECONDS: Final = 180.0
_LOG_STEPS: Final = 50


@dataclass(frozen=True)
class Schedule:
    """How long a run is and how its learning rate goes: up over `warm_up` steps, level, then down to nothing."""

    steps: int
    warm_up: int
    decay_from: float
    """The share of the steps from which on the rate falls as a cosine."""

    def factor(self, step: int) -> float:
        """Return what the learning rate is multiplied with at `step`."""
        done = step / self.steps
        if done <= self.decay_from:
            return min(1.0, (step + 1) / self.warm_up)
        return 0.5 * (1 + math.cos(math.pi * (done - self.decay_from) / (1 - self.decay_from))) + 0.01


class TrainingRun:
    """One run over `modules`: calls `step` until the schedule ends, and keeps the averaged weights beside them."""

    def __init__(
        self,
        folder: Path,
        name: str,
        modules: dict[str, nn.Module],
        optimizers: Iterable[torch.optim.Optimizer],
        schedule: Schedule,
        *,
        average: float,
    ) -> None:
        """`average` is the share of the old in the averaged weights, a step; checkpoints go to `folder`/`name`.pt."""
        self._path = folder / f"{name}.pt"
        self._log = folder / f"{name}.jsonl"
        self._modules = nn.ModuleDict(modules)
        self._optimizers = list(optimizers)
        self._rates = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in self._optimizers]
        self._schedule = schedule
        self._average = average
        self._averaged = _copied(self._modules.state_dict())
        self._next = 0
        self._seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._resume()

    def go(self, step: Callable[[int], dict[str, Tensor]], *, tell: Callable[[str], None] = print) -> None:
        """Run the steps that are left. `step` returns named figures, of which "loss" is what is minimised."""
        parameters = [p for p in self._modules.parameters() if p.requires_grad]
        figures: dict[str, float] = {}
        torch.set_flush_denormal(True)
        began = saved = time.monotonic()
        for number in range(self._next, self._schedule.steps):
            for optimizer, rates in zip(self._optimizers, self._rates, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * self._schedule.factor(number)
            parts = step(number)
            torch.autograd.backward([parts["loss"]])
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in self._optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self._follow(number)
            for name, value in parts.items():
                figures[name] = figures.get(name, float(value.detach())) * 0.98 + float(value.detach()) * 0.02
            self._next = number + 1
            now = time.monotonic()
            self._seconds, began = self._seconds + now - began, now
            if self._next % _LOG_STEPS == 0:
                self._note(figures, tell)
            if now - saved > _CHECKPOINT_SECONDS:
                saved = now
                self._save()
        self._save()

    def averaged(self, name: str) -> dict[str, Tensor]:
        """Return the averaged weights of one module."""
        start = f"{name}."
        return {key.removeprefix(start): value for key, value in self._averaged.items() if key.startswith(start)}

    @torch.no_grad()
    def _follow(self, number: int) -> None:
        keep = min(self._average, (number + 1) / (number + 10))  # the first weights are soon forgotten
        for key, value in self._modules.state_dict().items():
            if value.is_floating_point():
                self._averaged[key].lerp_(value, 1 - keep)

    def _note(self, figures: dict[str, float], tell: Callable[[str], None]) -> None:
        line = {"step": self._next, "seconds": round(self._seconds), **{k: round(v, 5) for k, v in figures.items()}}
        with self._log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        tell(" ".join(f"{key}={value}" for key, value in line.items()))

    def _save(self) -> None:
        scratch = self._path.with_suffix(".new")
        state: dict[str, Any] = {
            "next": self._next,
            "seconds": self._seconds,
            "modules": self._modules.state_dict(),
            "averaged": self._averaged,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        torch.save(state, scratch)
        os.replace(scratch, self._path)

    def _resume(self) -> None:
        state = torch.load(self._path, weights_only=True)
        self._modules.load_state_dict(state["modules"])
        self._averaged = state["averaged"]
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._next, self._seconds = state["next"], state["seconds"]


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}
