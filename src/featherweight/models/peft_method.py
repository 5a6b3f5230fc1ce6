"""Puts a method of ours among PEFT's: its name into the enumeration of methods, then PEFT's own registration.

`peft.utils.register_peft_method` is PEFT's extension point, and takes only names that its enumeration `PeftType` has.
Python has no call that adds a member to an enumeration, so it is added here, as the standard library stores members.
"""

from __future__ import annotations

from typing import Any


def register(name: str, config: type[Any], tuner: type[Any]) -> None:
    """Makes `get_peft_model`, `PeftModel.from_pretrained` and the rest of PEFT know a method. Twice is once."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType, register_peft_method

    member = _member(PeftType, name.upper())
    if member not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config, model_cls=tuner, prefix=getattr(tuner, "prefix", None))


def _member(enumeration: Any, name: str) -> Any:
    """The member of an enumeration of strings with this name and value, added where it is missing."""
    if name not in enumeration.__members__:
        member = str.__new__(enumeration, name)
        member._name_, member._value_ = name, name
        member._sort_order_ = len(enumeration)
        enumeration._member_names_.append(name)
        enumeration._member_map_[name] = member
        enumeration._value2member_map_[name] = member
        type.__setattr__(enumeration, name, member)
    return enumeration[name]
