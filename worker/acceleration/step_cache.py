"""Step caching by cache-dit: where a step's first blocks change little since the last whole step, the rest is guessed.

What is kept belongs to one call of the pipeline: each begins with nothing, whatever became of the one before. It is
decided for one image alone, so a job's images are the same whoever else is there.
"""

from __future__ import annotations

from typing import Any, Final

from worker.profile import StepCache

_FIRST_BLOCKS: Final = 8 / 57
"""The share of blocks that always compute, and by which a step is judged: the published 8 of FLUX.1's 57."""


def cache_steps(pipe: Any, wish: StepCache) -> None:
    """Let this pipeline skip what the threshold allows; once, and before it has hooks of accelerate."""
    from cache_dit import DBCacheConfig, TaylorSeerCalibratorConfig, enable_cache

    # cache-dit wraps __call__ of the pipeline's class and notes there that it did: with a class of its own, this
    # pipeline's settings are its own, too, and every other pipeline of the process stays as it is.
    kind = type(pipe)
    pipe.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__})
    transformer = pipe.transformer
    blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    enable_cache(
        pipe,
        cache_config=DBCacheConfig(
            Fn_compute_blocks=max(1, round(blocks * _FIRST_BLOCKS)),
            Bn_compute_blocks=0,
            residual_diff_threshold=wish.threshold,
            max_warmup_steps=wish.warmup_steps,
            enable_separate_cfg=False,  # FLUX.1's guidance is an input, not a second run
        ),
        # What is skipped goes on in a straight line instead of standing still: nearer to exact, for no more time.
        calibrator_config=TaylorSeerCalibratorConfig(taylorseer_order=1),
    )
