"""What `--gpus` asks for (all, a number, or which ones), and the GPUs that it means on this host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import click

from common.errors import Rejected
from worker.fleet.gpus import Gpu, in_words

_ID = re.compile(r"\d+(:\d+)?|(GPU|MIG)-[\w./-]+")
TO_THE_CPU = "leave --gpus away to fill on the CPU"


@dataclass(frozen=True)
class GpuWish:
    """All GPUs where neither `count` nor `ids` is given."""

    text: str
    count: int | None = None
    ids: tuple[str, ...] = ()


class GpuWishType(click.ParamType[GpuWish]):
    """Reads a GpuWish: `all`, `2` (so many), `0,2,3` or `0,` (these), UUIDs as nvidia-smi -L shows them."""

    name = "gpus"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> GpuWish:
        """Return the wish. Fails on what is none."""
        if isinstance(value, GpuWish):
            return value
        text = str(value).strip()
        if text == "all":
            return GpuWish(text)
        if text.isdigit() and int(text) > 0:
            return GpuWish(text, count=int(text))
        ids = tuple(part.strip() for part in text.removesuffix(",").split(","))
        if not all(_ID.fullmatch(one) for one in ids) or text == "0":
            self.fail("must be `all`, how many (from 1 on), or which: 0,2,3, or 0, for the first alone", param, ctx)
        twice = next((one for one in ids if ids.count(one) > 1), None)
        if twice is not None:
            self.fail(f"{twice} is named twice, and one worker runs on each GPU", param, ctx)
        return GpuWish(text, ids=ids)


def choose_gpus(wish: GpuWish, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Return those of `gpus` that are wished for. Raises Rejected (no_gpu, no_such_gpu) saying which there are."""
    asked = f"--gpus {wish.text}"
    if not gpus:
        raise Rejected("no_gpu", f"{asked}: there is no GPU that this process may use; {TO_THE_CPU}")
    if wish.count is not None:
        if wish.count > len(gpus):
            raise Rejected("no_such_gpu", f"{asked}: so many are not here; {in_words(gpus)}")
        return list(gpus[: wish.count])
    if not wish.ids:
        return list(gpus)
    known = {name: gpu for gpu in gpus for name in (gpu.id, gpu.uuid)}
    missing = [one for one in wish.ids if one not in known]
    if missing:
        raise Rejected("no_such_gpu", f"{asked}: {', '.join(missing)} is not here; {in_words(gpus)}")
    return [known[one] for one in wish.ids]
