"""The worked example of CONTRIBUTING.md runs as it stands, and as a technique of another package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def example(folder: Path) -> None:
    """Installs the example as the package `my_package`, by nothing but a path."""
    technique, test = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text("utf-8"), re.DOTALL)
    [entry_point] = re.findall(r"```toml\n(.*?)```", CONTRIBUTING.read_text("utf-8"), re.DOTALL)
    package = folder / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "clip_outliers.py").write_text(technique, "utf-8")
    importing = "from my_package.clip_outliers import ClipOutliers\n"
    (folder / "test_example.py").write_text(importing + test, "utf-8")
    metadata = folder / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", "utf-8")
    group, line = re.search(r'entry-points\."(.+?)"\]\n(.+)', entry_point).groups()  # type: ignore[union-attr]
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n", "utf-8")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=surroundings, check=False
    )


def test_the_example_passes_its_own_test(tmp_path: Path) -> None:
    example(tmp_path)
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py")
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_example_is_listed_and_applied(tmp_path: Path, tiny: Path) -> None:
    example(tmp_path)
    listed = run(tmp_path, "-m", "featherweight", "list")
    assert "clip-outliers" in listed.stdout, listed.stderr
    assert "standard deviations to keep" in run(tmp_path, "-m", "featherweight", "show", "clip-outliers").stdout
    (tmp_path / "recipe.yaml").write_text("steps:\n- clip-outliers: {deviations: 2}\n", "utf-8")
    done = run(tmp_path, "-m", "featherweight", "apply", "recipe.yaml", str(tiny), "--out", "made", "--quiet")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "made" / "result.json").read_text("utf-8"))
    assert result["ledger"][0]["step"] == "clip-outliers"
