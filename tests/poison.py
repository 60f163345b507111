"""A decoder with two poisonous files: one crashes it, one holds it up for good.

Run as a module it is a child that decodes with it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from extract import decoding
from extract.media import Audio

CRASHES, HANGS = "009.wav", "014.wav"


def poison() -> None:
    """Poison this process's decoder."""
    read = decoding.read_audio

    def read_or_die(path: Path, *args: Any, **options: Any) -> Audio:
        if path.name == CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        if path.name == HANGS:
            time.sleep(3600)
        return read(path, *args, **options)

    decoding.read_audio = read_or_die


if __name__ == "__main__":
    poison()
    decoding.serve()
