"""The options that describe a stream, given to every command that makes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from afstream.errors import ConfigError
from afstream.spec import ModelSpec, StreamConfig, text_place
from afstream_cli import options
from afstream_cli.inputs import read_memory, read_pixels

PARAMETER = "config"
# Where torch only counts; a stream needs a device that computes.
NO_DEVICE = "meta"


def stream_config(
    model: options.Model = "pocket",
    student: options.Student = None,
    lora: options.Lora = None,
    vae: options.Vae = None,
    text_encoder_file: options.TextEncoderFile = None,
    text_encoder: options.TextEncoder = None,
    offload: options.Offload = 0,
    gpu_memory: options.GpuMemory = None,
    size: options.Size = None,
    memory: options.Memory = None,
    junction: options.Junction = None,
    preset: options.Preset = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    backend: options.Backend = None,
    compiled: options.Compile = False,
    no_graph: options.NoGraph = False,
) -> StreamConfig:
    """The options as one object; seed and prompts are for the command to add.

    Raises:
        ConfigError: an option cannot be read.
    """
    if device and device.startswith(NO_DEVICE):
        raise ConfigError(f"device is {device!r}; choose cpu or cuda")
    return StreamConfig(
        model=ModelSpec(
            name=model,
            student=student,
            loras=tuple(lora or ()),
            vae=vae,
            text_encoder_file=text_encoder_file,
            text=text_place(text_encoder),
            offload=offload,
            device=device,
            dtype=dtype,
        ),
        size=read_pixels(size),
        memory=memory,
        junction=junction,
        preset=preset,
        backend=backend,
        compiled=compiled,
        graphs=not no_graph,
        gpu_memory=read_memory(gpu_memory),
    )


def with_stream_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `stream_config` in the place of its parameter `config`.

    The command's parameters are keyword-only, so that options stand in the help in this order.
    """
    shared = inspect.signature(stream_config, eval_str=True).parameters
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        parameters += [parameter] if name != PARAMETER else shared.values()

    @wraps(command)
    def run(**given: Any) -> None:  # noqa: ANN401 - whatever the options are
        config = stream_config(**{name: given.pop(name) for name in shared})
        command(**given, config=config)

    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    # What Typer reads: the signature, and the annotations by name.
    run.__dict__["__signature__"] = inspect.Signature(keywords)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
    return run
