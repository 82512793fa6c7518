"""Text generation: sampling, batches and beam search, for every family that writes text."""

from llm_core.generate.batch import Generated, generate_batch
from llm_core.generate.beam import Beams, beam_search, searching
from llm_core.generate.reading import ContextExceeded, room_for_answer
from llm_core.generate.sampling import NotFinite, Sampling, Token
from llm_core.generate.single import decode, generate
from llm_core.generate.stop import StopStrings, TextStream

__all__ = [
    "Beams",
    "ContextExceeded",
    "Generated",
    "NotFinite",
    "Sampling",
    "StopStrings",
    "TextStream",
    "Token",
    "beam_search",
    "decode",
    "generate",
    "generate_batch",
    "room_for_answer",
    "searching",
]
