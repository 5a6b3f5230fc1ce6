"""Tiny random segmenters and detectors with deformable attention, and scenes of coloured squares and discs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featherweight.core.lazy import torch, transformers
from featherweight.core.scenes import Scenes

SIZE = 64
_STRIDE, _STAGES = 4, ("stage1", "stage2", "stage3", "stage4")
_WIDTHS = (16, 32, 48, 64)


def tiny_backbone(kind: str = "convnext", stages: Sequence[str] = _STAGES) -> Any:
    """Configuration of a backbone of four stages: "convnext" or "swin" (layer norms), "resnet" (batch norms)."""
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "convnext": (transformers.ConvNextConfig, {
            "image_size": SIZE, "patch_size": _STRIDE, "num_stages": 4, "hidden_sizes": list(_WIDTHS),
            "depths": [1, 1, 1, 1],
        }),
        "swin": (transformers.SwinConfig, {
            "image_size": SIZE, "patch_size": _STRIDE, "embed_dim": 16, "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 2, 4], "window_size": 4, "drop_path_rate": 0.0,
        }),
        "resnet": (transformers.ResNetConfig, {
            "embedding_size": 16, "hidden_sizes": list(_WIDTHS), "depths": [1, 1, 1, 1], "layer_type": "basic",
        }),
    }  # fmt: skip
    cls, settings = kinds[kind]
    return cls(**settings, out_features=list(stages))


def tiny_mask2former(seed: int = 0, backbone: str = "convnext", **settings: Any) -> Any:
    """A random Mask2Former of width 32, two pixel-decoder layers and two decoder layers, for images of 64 x 64."""
    config = transformers.Mask2FormerConfig(
        **{
            "backbone_config": tiny_backbone(backbone), "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32,
            "encoder_feedforward_dim": 64, "encoder_layers": 2, "dim_feedforward": 64, "num_attention_heads": 4,
            # One more than there are layers: it counts the queries' own prediction.
            "decoder_layers": 3, "num_queries": 8, "train_num_points": 256, "num_labels": 1,
            "feature_strides": [_STRIDE * 2**index for index in range(4)], "common_stride": _STRIDE, **settings,
        }
    )  # fmt: skip
    return _built(transformers.Mask2FormerForUniversalSegmentation, config, seed)


def tiny_deformable_detr(seed: int = 0, backbone: str = "resnet", **settings: Any) -> Any:
    """A random Deformable DETR of width 32 with two layers each way, for images of 64 x 64."""
    config = transformers.DeformableDetrConfig(
        **{
            "backbone_config": tiny_backbone(backbone, _STAGES[1:]), "d_model": 32,
            "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
            "num_queries": 8, "num_feature_levels": 3, "num_labels": 1, "dropout": 0.0, **settings,
        }
    )  # fmt: skip
    return _built(transformers.DeformableDetrForObjectDetection, config, seed)


def _built(cls: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(config).eval()


def coloured_shapes(count: int, seed: int = 0, discs: bool = False, inverted: bool = False) -> Scenes:
    """Scenes of one or two squares, or discs, of any colour on a dark ground; inverted on a bright one."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.1 * torch.rand(count, 3, SIZE, SIZE, generator=generator)
    masks = []
    for image in images:
        halves = torch.randperm(2, generator=generator)[: 1 + int(torch.randint(2, (), generator=generator))]
        masks.append(torch.stack([_shape(int(half), discs, generator) for half in halves]))
        for mask in masks[-1]:
            image[:, mask] = 0.5 + 0.5 * torch.rand(3, 1, generator=generator)
    classes = tuple(torch.zeros(len(each), dtype=torch.int64) for each in masks)
    return Scenes(1 - images if inverted else images, tuple(masks), classes, "coloured shapes")


def _shape(half: int, disc: bool, generator: torch.Generator) -> torch.Tensor:
    """One shape in the left or right half of the image, bool [height, width]."""
    radius = 6 + 8 * float(torch.rand((), generator=generator))
    x = SIZE * (0.25 + 0.5 * half)
    y = radius + (SIZE - 2 * radius) * float(torch.rand((), generator=generator))
    places = torch.arange(SIZE) + 0.5
    down, across = (places[:, None] - y).abs(), (places[None] - x).abs()
    return down**2 + across**2 <= radius**2 if disc else torch.maximum(down, across) <= radius
