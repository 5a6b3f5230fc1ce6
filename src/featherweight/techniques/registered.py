"""Imports every technique of this package, so that it registers: what our entry point names."""

from __future__ import annotations

import importlib
import pkgutil

import featherweight.techniques as package

for _module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    importlib.import_module(_module.name)
