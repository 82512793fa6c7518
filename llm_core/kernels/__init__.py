"""Machine code for CPUs where measurement showed that torch leaves most of the machine unused: decoding."""

from llm_core.kernels.build import NoCompiler
from llm_core.kernels.decoder import BLOCK_TOKENS, NativeDecoder, Precision, Rows, StepResult, block_bytes, is_supported

__all__ = [
    "BLOCK_TOKENS",
    "NativeDecoder",
    "NoCompiler",
    "Precision",
    "Rows",
    "StepResult",
    "block_bytes",
    "is_supported",
]
