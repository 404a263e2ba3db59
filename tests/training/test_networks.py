"""A Wan run from folders: three networks, cached prompts, what was learned written and read."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from tests.training.tiny_run import PLAN, make_config
from tests.wan_folder import make_wan_folder

from afstream.checkpoints import merge_loras, read_lora, read_student
from afstream.config import SamplerConfig
from afstream.errors import ConfigError
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.spec import ModelSpec
from afstream.stream import Stream
from afstream.training.dmd.trainer import DmdTrainer
from afstream.training.trainer.distributed import gathered, joined
from afstream.training.trainer.lora import save_trained
from afstream.training.trainer.optim import trained
from afstream.training.wan import networks
from afstream.training.wan.networks import NetworksConfig, open_models, open_prompts

PAIRS = '{"prompts": ["a red star", "a blue star"]}\n{"prompts": ["the meadow", "at night"]}\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_wan_folder(tmp_path_factory.mktemp("wan") / "tiny", layout="original")


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as found:
        yield found


@pytest.fixture
def prompts(folder, tmp_path, processes):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(PAIRS)
    return open_prompts(
        folder,
        pairs,
        tmp_path / "cache",
        processes=processes,
        negative="over the meadow",
        dtype=torch.float32,
    )


def make_trainer(folder, prompts, processes, **settings):
    config = NetworksConfig(
        student=folder, teacher=folder, alpha=4.0, dtype=torch.float32, **settings
    )
    models, _ = open_models(config, prompts, processes)
    return DmdTrainer(
        make_config(iterations=4, batch=2),
        models,
        memory_policy("anchor", replace(LENGTHS, window_frames=6)),
        SamplerConfig(steps=(1000, 500)),
        (16, 4, 4),
        processes,
    )


def learn(trainer):
    while trainer.step < trainer.config.iterations:
        assert all(value > 0 for value in trainer.advance().values())
        trainer.step += 1


def test_the_text_encoder_is_opened_only_for_new_prompts(
    folder, prompts, processes, tmp_path, monkeypatch
):
    monkeypatch.setattr(networks, "load_text", None)
    again = open_prompts(
        folder,
        tmp_path / "pairs.jsonl",
        tmp_path / "cache",
        processes=processes,
        negative="over the meadow",
        dtype=torch.float32,
    )
    assert_close(again.pair([0, 1]), prompts.pair([0, 1]), rtol=0, atol=0)
    first, second = again.pair([0])
    assert not torch.equal(first, second)


def test_a_lora_is_learned_written_and_streamed(folder, prompts, processes, tmp_path):
    trainer = make_trainer(folder, prompts, processes, rank=2)
    student, teacher = trainer.models.student, trainer.models.teacher
    assert len(trained(student)) == 2 * 10 * student.config.num_layers
    assert not trained(teacher)
    frozen = gathered(dict(teacher.named_parameters()))
    learn(trainer)
    path = tmp_path / "lora.safetensors"
    save_trained(path, trained(student), alpha=4.0, processes=processes)
    lora = read_lora(path)
    assert {one.alpha for one in lora.strengths.values()} == {4.0}
    merged = merge_loras(frozen, [lora])
    assert any(not torch.equal(merged[name], value) for name, value in frozen.items())
    after = gathered(dict(teacher.named_parameters()))
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    spec = ModelSpec(name=str(folder), loras=(str(path),), text="cpu", device="cpu")
    stream = Stream.open(spec, size=(32, 32))
    stream.cue("a red star")
    chunk = next(itertools.islice(stream.chunks(), 1))
    assert chunk.latents.isfinite().all()


def test_all_weights_are_learned_and_written(folder, prompts, processes, tmp_path):
    trainer = make_trainer(folder, prompts, processes, rank=0)
    learn(trainer)
    path = tmp_path / "student.safetensors"
    save_trained(path, trainer.ema.weights, alpha=1.0, processes=processes)
    expected = gathered(trainer.ema.weights)
    found = read_student(path).weights
    assert found.keys() == {name for name, _ in trainer.models.student.named_parameters()}
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    # and it is where the next stage begins
    config = NetworksConfig(student=folder, start=path, teacher=folder, rank=0, dtype=torch.float32)
    begun = gathered(trained(open_models(config, prompts, processes)[0].student))
    assert all(torch.equal(begun[name], value) for name, value in expected.items())


def test_the_teacher_sees_a_later_windows_first_frame_as_an_image(folder, prompts, processes):
    trainer = make_trainer(folder, prompts, processes, rank=2)
    seen = []
    codec = trainer.models.codec
    encode = codec.encode
    codec.encode = lambda frames: seen.append(frames.shape) or encode(frames)
    learn(trainer)
    # each window of two sequences shows its overlap's first frame, though the last needs none
    assert set(seen) == {(2, 1, 3, 32, 32)}
    assert len(seen) == 4
    assert PLAN.overlap_frames == 3


def test_networks_of_two_families_are_refused(folder, prompts, processes, monkeypatch):
    config = NetworksConfig(student=folder, teacher=folder, rank=2, dtype=torch.float32)
    build = networks.open_backbone

    def wider(path, start, device, dtype):
        backbone = build(path, start, device, dtype)
        if not made:
            object.__setattr__(backbone.config, "text_dim", 99)
        made.append(backbone)
        return backbone

    made = []
    monkeypatch.setattr(networks, "open_backbone", wider)
    with pytest.raises(ConfigError, match=r"the teacher reads .* text of 99 values"):
        open_models(config, prompts, processes)
