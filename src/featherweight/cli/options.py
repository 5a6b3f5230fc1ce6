"""Options that several verbs share, so that they are spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="a Hugging Face folder, a .gguf file, a hub name, or smollm2-135m")]
Memory = Annotated[
    str | None, typer.Option(help="bytes of the exported file: 92MB, 90MiB, or 45% of the parent in bf16")
]
Resident = Annotated[str | None, typer.Option(help="peak resident memory of a fresh process that serves the model")]
Latency = Annotated[str | None, typer.Option(help="time a decoded token on this machine: 30ms")]
Quality = Annotated[str | None, typer.Option(help="least parent perplexity / child perplexity: 85%")]
Context = Annotated[int, typer.Option(help="tokens of context at which --resident is measured")]
Threads = Annotated[int | None, typer.Option(help="processor threads for measuring; all by default")]
Text = Annotated[str | None, typer.Option(help="calibration and test text: a .txt or .jsonl file, or hf:DATASET")]
Seed = Annotated[int, typer.Option(help="of every random choice")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="read pickled weights, which can run code")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with an interrupted run")]
Quiet = Annotated[bool, typer.Option("--quiet", help="print only the result")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Out = Annotated[Path | None, typer.Option(help="folder of the run")]
Format = Annotated[str, typer.Option(help="gguf (llama.cpp) or hf (Hugging Face, compressed-tensors)")]
Reuse = Annotated[str | None, typer.Option(help="an earlier run whose measurements are taken over")]
Direct = Annotated[Path | None, typer.Option(help="instead of a policy: .jsonl of cases that must be refused")]
Framed = Annotated[Path | None, typer.Option(help="the same items in other words")]
Benign = Annotated[Path | None, typer.Option(help="cases that only look like those and must be served")]
Capability = Annotated[Path | None, typer.Option(help="ordinary cases that must be served")]
Served = Annotated[str, typer.Option("--served-model", help="name of the model at an address")]
KeyFile = Annotated[Path | None, typer.Option(help="file that holds the key for an address")]
Timeout = Annotated[float, typer.Option(help="seconds until a silent server counts as dead")]
