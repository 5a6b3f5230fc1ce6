"""A model of a stock class in which one component is a student; saved and loaded as one Hugging Face folder.

Everything but the component is the host's own: class, weights, names. Copied beside a saved model, so it imports
nothing of Featherweight.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .text_student import TextStudent, TextStudentConfig


class SplicedConfig(PreTrainedConfig):
    """Which host, and what stands in it.

    Attributes:
        host_class: the host's class in transformers.
        host: the host's configuration.
        component: the place of the student in the host, such as "text_model".
        student: the student's configuration.
    """

    model_type = "featherweight_spliced"

    host_class: str = "CLIPModel"
    host: dict[str, Any] | None = None
    component: str = "text_model"
    student: dict[str, Any] | None = None


class SplicedModel(PreTrainedModel):
    """`model.host` is the host with the student in its place; calling the model calls the host."""

    config_class = SplicedConfig
    base_model_prefix = "spliced"

    def __init__(self, config: SplicedConfig) -> None:
        super().__init__(config)
        settings = dict(config.host or {})
        host_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.host: Any = getattr(transformers, config.host_class)(host_config)
        self.host.set_submodule(config.component, TextStudent(TextStudentConfig(**(config.student or {}))))
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, host: PreTrainedModel, component: str, student: TextStudent) -> SplicedModel:
        """A copy of `host` with `student` in the place of a component, in the host's number format."""
        config = SplicedConfig(
            host_class=type(host).__name__, host=host.config.to_dict(), component=component,
            student=student.config.to_dict(), dtype=host.dtype,
        )  # fmt: skip
        with torch.device("meta"):
            model = cls(config)
        parts: dict[int, Any] = {id(host.get_submodule(component)): nn.Identity()}  # what goes is not copied
        model.host = copy.deepcopy(host, parts)
        placed: Any = copy.deepcopy(student)
        model.host.set_submodule(component, placed.to(host.dtype))
        model.train(False)
        return model

    def forward(self, *args: Any, **fields: Any) -> Any:
        return self.host(*args, **fields)


AutoConfig.register(SplicedConfig.model_type, SplicedConfig, exist_ok=True)
AutoModel.register(SplicedConfig, SplicedModel, exist_ok=True)
SplicedConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
SplicedModel.register_for_auto_class("AutoModel")  # type: ignore[no-untyped-call]
