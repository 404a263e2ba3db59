"""`afstream convert`: a Wan2.1 model in any form to one folder that loads fastest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afstream.spec import ModelSpec
from afstream_cli import options

Source = Annotated[
    str,
    typer.Argument(
        metavar="IN", help="A Wan2.1 folder of any layout, or the file of a student or a backbone."
    ),
]
Target = Annotated[
    Path,
    typer.Argument(metavar="OUT", help="The folder to make; it must be empty, or not exist yet."),
]
Vae = Annotated[
    str | None,
    typer.Option("--vae", metavar="PATH", help="A Wan2.1 VAE to use instead of the folder's own."),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Type of the weights: bfloat16, in which GPUs run, or float32, twice as large.",
    ),
]


def convert(
    source: Source,
    out: Target,
    student: options.Student = None,
    lora: options.Lora = None,
    vae: Vae = None,
    text_encoder_file: options.TextEncoderFile = None,
    dtype: Dtype = "bfloat16",
    quiet: options.Quiet = False,
) -> None:
    """Convert a model to one folder of safetensors, which loads fastest.

    A Wan2.1 folder, with a student in its backbone's place and LoRAs merged, becomes a folder for
    --model. A student's file alone becomes one for --student. OUT appears once it is complete.
    """
    spec = ModelSpec(
        name=source,
        student=student,
        loras=tuple(lora or ()),
        vae=vae,
        text_encoder_file=text_encoder_file,
        dtype=dtype,
    )
    # these import torch
    from afstream.families.wan.convert import BACKBONE_ONLY, check_out, prepare
    from afstream_cli.findings import size
    from afstream_cli.interruption import stopped_like_ctrl_c
    from afstream_cli.progress import open_job

    check_out(out)
    with stopped_like_ctrl_c(), open_job(quiet=quiet) as job:
        conversion = prepare(spec)
        job.begin("convert", conversion.num_bytes)

        def tell(done: int, total: int) -> None:
            job.update(done, f"{size(done)} of {size(total)}")

        manifest = conversion.write(out, tell=tell)
        if not quiet:
            option = "--student" if tuple(manifest.parts) == BACKBONE_ONLY else "--model"
            job.say(
                f"{size(conversion.num_bytes)} in {out}, made from {manifest.origin};"
                f" give it to afstream generate as {option} {out}"
            )
