"""In which numbers the transformer's weights are loaded, as an object for diffusers; torchao does the work.

Only the transformer is quantized, and only while it is loaded: torchao called by hand would leave no way for LoRAs.
"""

from __future__ import annotations

from typing import Any, assert_never

from common.fill_profile import Quantization


def quantization_config(wish: Quantization) -> Any:
    """Return diffusers' PipelineQuantizationConfig. torchao is imported only here: it is an extra."""
    from diffusers import PipelineQuantizationConfig, TorchAoConfig

    return PipelineQuantizationConfig(quant_mapping={"transformer": TorchAoConfig(_numbers(wish))})


def _numbers(wish: Quantization) -> Any:
    # set_inductor_config would change how the whole process multiplies, and tune kernels at start for a long time.
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Int8WeightOnlyConfig, PerRow

    match wish:
        case Quantization.INT8:
            return Int8WeightOnlyConfig(set_inductor_config=False)
        case Quantization.FP8:
            return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
        case Quantization.NONE:
            raise ValueError("nothing to quantize")
        case _:
            assert_never(wish)
