"""Pictures through `open_clip`'s image tower: one row a sampled frame.

A row is `encode_image` without normalisation: its length carries information too, and stage two
standardises every dimension anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import EncoderInfo, Prepared, Settings, Unit
from extract.encoders.compute import Compute
from extract.encoders.weights import (
    FETCH_ELSEWHERE,
    Memo,
    digest_of_files,
    fetch,
    find_model_folder,
    has_random_weights,
    read_config,
    slug_of,
)
from extract.errors import ExtractError
from extract.media import Frames

_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_LOCAL, _HUB = "local-dir:", "hf-hub:"
_BATCH = {"cpu": 8, "cuda": 256}


def resolve(reference: str, spec: str, settings: Settings, memo: Memo) -> EncoderInfo:
    """Find the model that `ARCH/TAG`, `local-dir:DIR` or `hf-hub:ID` names.

    Raises:
        ExtractError: there is no such model, it cannot be fetched, or it is not open_clip's.
    """
    if reference.startswith((_LOCAL, _HUB)):
        name = reference.partition(":")[2]
        folder = find_model_folder(name, f"encoder {spec}", [_CONFIG, *_WEIGHTS], _CONFIG)
        dim = read_config(folder / _CONFIG, spec).get("model_cfg", {}).get("embed_dim")
        weights = [folder / name for name in _WEIGHTS if (folder / name).is_file()][:1]
        if not weights or not isinstance(dim, int):
            raise ExtractError(
                f"encoder {spec}: {folder} is not an open_clip model: it holds no {_WEIGHTS[0]}, "
                f"or its {_CONFIG} names no embed_dim"
            )
        digest = digest_of_files([folder / _CONFIG, *weights], memo)
        location, slug = f"{_LOCAL}{folder}", slug_of(Path(name).name)
        random, model = has_random_weights(folder), None
    else:
        found = _published(reference, spec, memo)
        digest, dim = memo.digest(Path(found["weights"])), found["dim"]
        location, slug = reference, slug_of(reference)
        random, model = False, reference  # names the architecture and its preprocessing
    return EncoderInfo(
        spec=spec,
        kind="open_clip",
        medium="frames",
        slug=slug,
        location=location,
        digest=digest,
        dim=dim,
        rows_per_second=settings.fps,
        random_weights=random,
        preprocessing={
            "fps": settings.fps,
            "max_seconds": settings.max_seconds,
            "normalize": False,
            "model": model,
        },
        dtype=settings.dtype,
    )


def _published(reference: str, spec: str, memo: Memo) -> dict[str, Any]:
    """Return weights file and width of a model by architecture and tag, fetching it if need be."""

    def find() -> dict[str, Any]:
        import open_clip

        arch, _, tag = reference.partition("/")
        config = open_clip.get_model_config(arch)
        if config is None:
            raise ExtractError(f"encoder {spec}: open_clip knows no architecture {arch}")
        if tag not in open_clip.list_pretrained_tags_by_model(arch):
            known = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) or "none"
            raise ExtractError(f"encoder {spec}: no weights {tag!r} for {arch} (known: {known})")
        weights = _fetch(open_clip.get_pretrained_cfg(arch, tag), spec)
        return {"weights": str(weights.resolve()), "dim": config["embed_dim"]}

    key = f"open_clip {reference}"
    found: dict[str, Any] = memo.fact(key, find)
    if not Path(found["weights"]).is_file():
        memo.forget(key)
        found = memo.fact(key, find)
    return found


def _fetch(config: dict[str, Any], spec: str) -> Path:
    """Return the weights file that open_clip's own list gives for a tag, fetched if need be."""
    what = f"encoder {spec}"
    if hub := config.get("hf_hub"):
        name, _, file = hub.rpartition("/")
        names = [file] if file else list(_WEIGHTS)

        def found(folder: Path) -> list[Path]:
            return [folder / name for name in names if (folder / name).is_file()]

        weights = found(fetch(name, what, names, lambda folder: bool(found(folder))))
        if weights:
            return weights[0]
    import open_clip

    try:
        return Path(open_clip.download_pretrained(config))
    except Exception as error:  # hub, HTTP and file errors of several libraries
        cause = str(error).strip().splitlines()[0]
        raise ExtractError(
            f"{what}: could not be fetched ({cause}); give open_clip:local-dir:DIR, or "
            f"{FETCH_ELSEWHERE}"
        ) from error


class ClipVisual:
    """A loaded image tower with its own preprocessing."""

    def __init__(self, info: EncoderInfo, device: str) -> None:
        import open_clip

        arch, tag = info.location, None
        if not arch.startswith(_LOCAL):
            arch, _, tag = info.location.partition("/")
        try:
            model, _, self._preprocess = open_clip.create_model_and_transforms(arch, pretrained=tag)
        except Exception as error:  # of open_clip, torch and safetensors, each its own
            cause = str(error).strip().splitlines()[0]
            raise ExtractError(
                f"encoder {info.spec}: does not load as an open_clip model: {cause}"
            ) from error
        self._compute = Compute(info, device)
        self._model = model.to(device).eval()
        self._batch = _BATCH[device.partition(":")[0]]

    def batch_size(self, unit: Unit) -> int:
        """Return how many pictures make a batch."""
        return self._batch

    def prepare(self, medium: Frames) -> Prepared:
        """Resize, crop and normalise each picture as the model wants it."""
        from PIL import Image

        units: list[Unit] = []
        previous = None
        for picture in medium.pictures:
            if picture is not previous:  # a frame on display for several instants comes again
                pixels = self._preprocess(Image.fromarray(picture)).numpy()
                previous = picture
            units.append(Unit((pixels,), 1))
        return Prepared(units, medium.times, medium.flags)

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Encode a batch of pictures [3, height, width]."""
        [pixels] = self._compute.to_device(units)
        with self._compute.running():
            rows = self._model.encode_image(pixels, normalize=False)
            return self._compute.to_host(rows[:, None], units)
