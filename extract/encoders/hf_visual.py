"""Pictures through any image model of `transformers`, or VideoMAE on windows of frames.

Image models give one row a frame: the class token of a model that has one (ViT, DINOv2, DINOv3),
the pooled picture of CLIP's and SigLIP's towers (the projected one where the directory holds both
towers, as `get_image_features` returns it), and the mean over all patches otherwise. VideoMAE sees
windows of successive frames in pairs, and gives one row a pair: the mean over its patches. The last
window is filled up with the last frame, and rows that lie on the filling are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import EncoderInfo, Prepared, Settings, Unit
from extract.encoders.compute import Compute
from extract.encoders.hf_model import (
    CONFIG,
    PREPROCESSOR,
    HfModel,
    find_hf_model,
    load_hf_model,
    not_loadable,
    states_of,
)
from extract.encoders.options import Layer, split_options
from extract.encoders.weights import Memo
from extract.errors import ExtractError
from extract.media import Frames

Pooling = Literal["class", "pooled", "mean", "projected", "video"]

_POOLING: dict[str, Pooling] = {
    **dict.fromkeys(["vit", "deit", "beit", "data2vec-vision"], "class"),
    **dict.fromkeys(["dinov2", "dinov2_with_registers", "dinov3_vit"], "class"),
    **dict.fromkeys(["clip_vision_model", "siglip_vision_model"], "pooled"),
    **dict.fromkeys(["clip", "chinese_clip", "siglip"], "projected"),
    "videomae": "video",
}
_NO_LAYERS = ("pooled", "projected")
_BATCH = {"cpu": 32, "cuda": 256}
_BATCH_OF_WINDOWS = {"cpu": 2, "cuda": 16}


def resolve(reference: str, spec: str, settings: Settings, memo: Memo) -> EncoderInfo:
    """Find the model that `ID_OR_DIR[@layer]` names.

    Raises:
        ExtractError: there is no such model, or it is not one for pictures.
    """
    name, options = split_options(reference, spec, ["layer"])
    found = find_hf_model(name, options.layer, spec, ["*.json"], memo, also=[PREPROCESSOR])
    pooling = _POOLING.get(found.config["model_type"], "mean")
    if options.layer is not None and pooling in _NO_LAYERS:
        raise ExtractError(
            f"encoder {spec}: its rows come from a projection, not from a layer; leave "
            f"@{options.layer} away"
        )
    rate = settings.fps
    if pooling == "video":
        rate /= found.number("tubelet_size") or 1
    return EncoderInfo(
        spec=spec,
        kind="hf-visual",
        medium="frames",
        slug=found.slug,
        location=str(found.folder),
        digest=found.digest,
        dim=_width(found, pooling, spec),
        rows_per_second=rate,
        random_weights=found.random_weights,
        preprocessing={
            "fps": settings.fps,
            "max_seconds": settings.max_seconds,
            "layer": options.layer,
            "pooling": pooling,
        },
        dtype=settings.dtype,
    )


def _width(found: HfModel, pooling: Pooling, spec: str) -> int:
    """Return the length of a row."""
    if "num_frames" in found.config and pooling != "video":
        raise ExtractError(
            f"encoder {spec}: model_type {found.config['model_type']} wants windows of frames in "
            "a way that is not known here; of the video models use VideoMAE"
        )
    stages = found.config.get("hidden_sizes") or [None]  # of convolutional models, by stage
    dim = found.number("hidden_size") or stages[-1]
    if pooling == "projected":
        tower = found.config.get("vision_config", {})
        # SigLIP projects onto the tower's own width.
        dim = found.number("projection_dim") or tower.get("hidden_size")
    if "image_size" not in found.config.get("vision_config", found.config) or dim is None:
        raise ExtractError(
            f"encoder {spec}: {found.folder / CONFIG} (model_type {found.config['model_type']}) "
            "names no image_size or no hidden_size: not an encoder of pictures"
        )
    return int(dim)


class HfVisual:
    """A loaded encoder of pictures."""

    def __init__(self, info: EncoderInfo, device: str) -> None:
        from transformers import AutoImageProcessor

        self._pooling: Pooling = info.preprocessing["pooling"]
        self._layer: Layer = info.preprocessing["layer"]
        unused = [] if self._pooling in _NO_LAYERS else ["pooler"]
        self._model = load_hf_model(info.location, info.spec, masked=False, unused=unused).to(
            device
        )
        try:
            self._processor = AutoImageProcessor.from_pretrained(
                info.location, local_files_only=True
            )
        except Exception as error:  # of transformers
            raise not_loadable(info.spec, info.location, error) from error
        self._compute = Compute(info, device)
        sizes = _BATCH_OF_WINDOWS if self._pooling == "video" else _BATCH
        self._batch = sizes[device.partition(":")[0]]

    def batch_size(self, unit: Unit) -> int:
        """Return how many pictures, or windows of them, make a batch."""
        return self._batch

    def prepare(self, medium: Frames) -> Prepared:
        """Resize, crop and normalise each picture as the model wants it."""
        pictures: list[NDArray[np.float32]] = []
        previous = None
        for picture in medium.pictures:
            if picture is previous:  # a frame on display for several instants comes again
                pictures.append(pictures[-1])
                continue
            found = self._processor(images=[picture], return_tensors="np")["pixel_values"]
            # [1, channels, height, width]; a video processor takes a picture for a short video
            pictures.append(found.reshape(found.shape[-3:]).astype(np.float32))
            previous = picture
        if self._pooling != "video":
            return Prepared([Unit((one,), 1) for one in pictures], medium.times, medium.flags)
        return self._windows(pictures, medium)

    def _windows(self, pictures: list[NDArray[np.float32]], medium: Frames) -> Prepared:
        """Cut pictures into VideoMAE's windows of tubes (pairs of frames)."""
        length, tube = self._model.config.num_frames, self._model.config.tubelet_size
        units = []
        for begin in range(0, len(pictures), length):
            window = pictures[begin : begin + length]
            rows = -(-len(window) // tube)
            window += [window[-1]] * (length - len(window))
            units.append(Unit((np.stack(window),), rows))
        times = [
            np.mean(medium.times[begin : begin + tube]) for begin in range(0, len(pictures), tube)
        ]
        return Prepared(units, np.array(times, np.float32), medium.flags)

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Encode pictures [channels, height, width] or windows [frames, channels, ...]."""
        [pixels] = self._compute.to_device(units)
        with self._compute.running():
            return self._compute.to_host(self._rows(pixels), units)

    def _rows(self, pixels: Any) -> Any:
        """Return the rows [batch, rows, dim] of a batch."""
        if self._pooling == "projected":
            return self._model.get_image_features(pixel_values=pixels).pooler_output[:, None]
        output = self._model(pixel_values=pixels, output_hidden_states=self._layer is not None)
        if self._pooling == "pooled":
            return output.pooler_output[:, None]
        states = states_of(output, self._layer)
        if self._pooling == "class":
            return states[:, :1]
        if self._pooling == "mean":
            if states.dim() == 4:  # a convolutional model's map [batch, dim, height, width]
                states = states.flatten(2).transpose(1, 2)
            return states.mean(dim=1, keepdim=True)
        config = self._model.config
        tubes = config.num_frames // config.tubelet_size
        return states.unflatten(1, (tubes, -1)).mean(dim=2)
