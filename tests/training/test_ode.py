"""ODE regression: pairs on the true trajectory, and a student that sees what its stream sees."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from afstream.config import BackboneConfig, SamplerConfig
from afstream.engine.rollout import Rollout
from afstream.engine.schedule import Schedule, clean_from_flow
from afstream.errors import CheckpointError, ConfigError
from afstream.families.presets import LENGTHS
from afstream.kvcache.memories import memory_policy
from afstream.model.dit import Backbone
from afstream.training.dmd.bidirectional import predict_flow
from afstream.training.ode.pairs import Pairs, PairsConfig, make_pairs
from afstream.training.ode.solver import solver_grid, trajectory
from afstream.training.ode.trainer import NoisyClips, OdeConfig, OdeTrainer, choose_steps
from afstream.training.recipes.reading import load_recipe
from afstream.training.recipes.tables import WanRecipe
from afstream.training.teacher_forcing import plan_clip
from afstream.training.trainer.checkpoints import CheckpointStore
from afstream.training.trainer.distributed import ALONE, Processes
from afstream.training.trainer.loop import train
from afstream.training.trainer.rng import normal

CHUNK, SIZE = 3, (16, 4, 4)
SIZES = BackboneConfig(
    dim=32, ffn_dim=48, freq_dim=16, text_dim=8, text_len=6, num_heads=2, num_layers=2, patch=2
)
SAMPLER = SamplerConfig()
SIGMAS = (1.0, 0.9375, 5 / 6, 0.625)
SMALL = PairsConfig(
    pairs=5, frames=6, steps=8, solver="heun", guidance=3.0, shard=2, batch=2, seed=0
)
SPREAD = 0.5


def make_backbone(seed=0):
    torch.manual_seed(seed)
    backbone = Backbone(SIZES)
    for weight in backbone.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)
    return backbone


def changed(config, **changes):
    return type(config).model_validate({**config.model_dump(), **changes})


class NumberedPrompts:
    """Prompt i is a constant embedding of its number; the second of a pair is never right."""

    def pair(self, numbers):
        embeds = torch.tensor(list(numbers), dtype=torch.float32)[:, None, None].expand(-1, 2, 8)
        return embeds / 4, embeds.new_full(embeds.shape, torch.nan)

    def full(self, numbers):
        return self.pair(numbers)[1]

    def unconditional(self, count):
        return torch.full((count, 2, 8), -0.5)


class GaussianTeacher:
    """Knows the flow of clips whose values are normal around the prompt's first value."""

    dtype, device, config = torch.float32, torch.device("cpu"), SIZES

    def __init__(self):
        self.calls = 0

    def time_context(self, timestep):
        return timestep

    def text_context(self, embeds):
        return embeds[:, 0, 0]

    def __call__(self, noisy, time, text, window):
        self.calls += 1
        sigma = (time / 1000)[..., None, None, None]
        mean = text[:, None, None, None, None]
        variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
        slope = (sigma - (1 - sigma) * SPREAD**2) / variance
        return slope * (noisy - (1 - sigma) * mean) - mean


def on_trajectory(mean, noise, sigma):
    """In closed form: the marginal's mean, and its spread along the same noise."""
    return (1 - sigma) * mean + ((1 - sigma) ** 2 * SPREAD**2 + sigma**2) ** 0.5 * noise


def make_folder(folder, config=SMALL, **options):
    teacher: Any = GaussianTeacher()
    make_pairs(teacher, NumberedPrompts(), folder, config, SAMPLER, SIZE, **options)
    return teacher.calls


@pytest.mark.parametrize("steps", [4, 48, 50])
def test_the_samplers_sigmas_are_nodes_of_the_solver(steps):
    grid = solver_grid(SAMPLER, steps)
    assert len(grid.sigmas) == steps + 1
    assert all(a > b for a, b in zip(grid.sigmas, grid.sigmas[1:], strict=False))
    kept = tuple(grid.sigmas[index] for index in grid.kept)
    assert kept == (*Schedule.of(SAMPLER).sigmas, 0.0)
    assert kept == pytest.approx((*SIGMAS, 0.0), abs=1e-15)


def test_a_sampler_that_begins_below_pure_noise():
    grid = solver_grid(SamplerConfig(steps=(900, 310)), 20)
    assert grid.sigmas[0] == 1
    assert [grid.sigmas[index] for index in grid.kept] == [
        *Schedule.of(SamplerConfig(steps=(900, 310))).sigmas,
        0.0,
    ]


def test_too_few_steps_are_refused():
    with pytest.raises(ConfigError, match="3 steps, too few"):
        solver_grid(SAMPLER, 3)


@pytest.mark.parametrize(("solver", "largest", "order"), [("euler", 0.1, 1), ("heun", 0.03, 2)])
def test_the_solver_comes_to_the_true_end(solver, largest, order):
    noise = torch.ones(2, 3, *SIZE, dtype=torch.float64)
    teacher, mean = GaussianTeacher(), torch.tensor([0.7, -0.3], dtype=torch.float64)

    def error(steps):
        """At each kept sigma, in shares of the spread there."""
        found = trajectory(
            lambda x, sigma: teacher(x, torch.full((2, 1), 1000 * sigma).double(), mean, None),
            noise,
            solver_grid(SAMPLER, steps),
            solver,
        )
        assert found.shape == (2, 5, 3, *SIZE)
        truth = torch.stack(
            [on_trajectory(mean.view(2, 1, 1, 1, 1), noise, sigma) for sigma in (*SIGMAS, 0.0)],
            dim=1,
        )
        return (found - truth).abs().amax(dim=(0, 2, 3, 4, 5)) / SPREAD

    coarse, fine = error(48), error(192)
    assert coarse[0] == 0
    assert coarse[-1] == coarse.max() < largest
    shrunk = (coarse[1:] / fine[1:]).tolist()
    assert shrunk == pytest.approx([4.0**order] * 4, rel=0.2)


def test_pairs_are_guided_and_of_their_prompts(tmp_path):
    config = changed(SMALL, steps=100, guidance=2.0)
    reports = []
    make_folder(tmp_path, config, report=reports.append)
    assert reports == [{"kind": "pairs", "done": done, "of": 5} for done in (2, 4, 5)]
    pairs = Pairs(tmp_path)
    assert (len(pairs), pairs.frames, pairs.size) == (5, 6, SIZE)
    assert pairs.sampler == SAMPLER
    assert pairs.numbers == [0, 1, 2, 3, 4]
    found = pairs.latents([4, 1])
    assert found.shape == (2, 5, 6, *SIZE)
    noise = normal((6, *SIZE), [4, 1], 0, "ode noise")
    for row, number in enumerate((4, 1)):
        mean = number / 4 + 2.0 * (number / 4 + 0.5)
        for index, sigma in enumerate((*SIGMAS, 0.0)):
            truth = on_trajectory(mean, noise[row], sigma)
            assert_close(found[row, index], truth, rtol=0, atol=0.03)


def test_a_backbone_teaches_with_all_frames_in_view(tmp_path):
    teacher, config = make_backbone(), changed(SMALL, pairs=1, steps=4, solver="euler")
    make_pairs(teacher, NumberedPrompts(), tmp_path, config, SAMPLER, SIZE)
    (found,) = Pairs(tmp_path).latents([0])
    noise = normal((6, *SIZE), [0], 0, "ode noise")
    with torch.no_grad():
        cond, uncond = (
            predict_flow(teacher, noise, torch.tensor([1000.0]), teacher.text_context(embeds))
            for embeds in (NumberedPrompts().pair([0])[0], NumberedPrompts().unconditional(1))
        )
    flow = cond + 3.0 * (cond - uncond)
    assert_close(found[1], (noise - 0.0625 * flow)[0], rtol=1e-3, atol=1e-3)


def test_pairs_do_not_depend_on_how_the_work_is_divided(tmp_path):
    make_folder(tmp_path / "whole")
    make_folder(tmp_path / "parts", changed(SMALL, batch=1), files=[1])
    make_folder(tmp_path / "parts", files=[2, 0])
    assert_close(
        Pairs(tmp_path / "parts").latents(range(5)), Pairs(tmp_path / "whole").latents(range(5))
    )


def test_only_missing_and_torn_files_are_made_again(tmp_path):
    # two flows each, the last step's once
    per_file = 2 * (2 * SMALL.steps - 1)
    assert make_folder(tmp_path) == 3 * per_file
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [f"pairs-0000{k}.safetensors" for k in range(3)]
    before = Pairs(tmp_path).latents(range(5))
    assert make_folder(tmp_path) == 0

    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="pairs-00000"):
        Pairs(tmp_path)
    turned = bytearray(paths[1].read_bytes())
    turned[-100] ^= 1
    paths[1].write_bytes(turned)
    assert make_folder(tmp_path) == 2 * per_file
    assert_close(Pairs(tmp_path).latents(range(5)), before, rtol=0, atol=0)
    assert sorted(tmp_path.iterdir()) == paths

    # more pairs: only the last file was not full
    assert make_folder(tmp_path, changed(SMALL, pairs=6)) == per_file
    assert load_file(paths[2])["numbers"].tolist() == [4, 5]


def test_a_kill_leaves_no_file_by_its_name(tmp_path, monkeypatch):
    def kill(file, content, metadata):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("afstream.checkpoints.files.write_checked", kill)
    with pytest.raises(KeyboardInterrupt):
        make_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pairs_made_in_another_way_are_not_mixed(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"guidance 3\.0, now it is 4\.0"):
        make_folder(tmp_path, changed(SMALL, guidance=4.0))
    make_folder(tmp_path / "other", changed(SMALL, seed=1))
    (tmp_path / "other" / "pairs-00000.safetensors").rename(tmp_path / "pairs-00009.safetensors")
    with pytest.raises(CheckpointError, match="another way"):
        Pairs(tmp_path)
    with pytest.raises(CheckpointError, match="no ODE pairs"):
        Pairs(tmp_path / "nowhere")


def test_every_chunk_stands_at_its_own_step():
    latents = torch.arange(2 * 5 * 6).view(2, 5, 6, 1, 1, 1).expand(-1, -1, -1, *SIZE)
    found = choose_steps(latents, torch.tensor([[3, 0], [1, 2]]), CHUNK)[..., 0, 0, 0]
    assert found.tolist() == [[18, 19, 20, 3, 4, 5], [36, 37, 38, 45, 46, 47]]


def draw_clip(frames, batch=2):
    noisy = torch.randn(batch, frames, *SIZE)
    return noisy, torch.randint(4, (batch, frames // CHUNK)), torch.randn(batch, 4, 8)


def make_clips(model, policy, frames):
    return NoisyClips(model, policy, Schedule.of(SAMPLER), frames, SIZE)


@pytest.mark.parametrize("memory", ["anchor", "recache", "rolling"])
@torch.no_grad()
def test_a_clip_is_the_stream_whose_memory_holds_noisy_chunks(memory):
    model, policy = make_backbone(), memory_policy(memory, LENGTHS)
    noisy, steps, embeds = draw_clip(30, batch=1)
    text = model.text_context(embeds)
    found = make_clips(model, policy, 30).predict(noisy, steps, text)

    rollout = Rollout.of(model, policy, SAMPLER)
    state = rollout.start(text, noisy[:, :CHUNK].shape)
    for index, chunk in enumerate(noisy.split(CHUNK, dim=1)):
        step = int(steps[0, index])
        streamed = rollout.step(state, chunk, step, text)
        rows = slice(index * CHUNK, (index + 1) * CHUNK)
        assert_close(found[:, rows], streamed, rtol=0, atol=1e-5)
        # the context pass, but of the noisy chunk at its own timestep
        at_step = replace(rollout, times=(*rollout.times[:-1], rollout.times[step]))
        at_step.commit(state, chunk)


@torch.no_grad()
def test_one_chunk_in_a_window_that_shows_everything_is_the_streams_first_step():
    model = make_backbone()
    policy = memory_policy("rolling", replace(LENGTHS, window_frames=21))
    rollout = Rollout.of(model, policy, SAMPLER)
    noise = torch.randn(4, 2, CHUNK, *SIZE)
    text = model.text_context(torch.randn(2, 4, 8))
    state = rollout.start(text, noise[0].shape)
    clips = make_clips(model, policy, CHUNK)
    for step, sigma in enumerate(SIGMAS):
        noisy, flow = rollout.predict(state, noise[: step + 1])
        found = clips.predict(noisy, torch.full((2, 1), step), text)
        assert_close(found, clean_from_flow(noisy, flow, sigma), rtol=0, atol=1e-5)
        assert_close(found, rollout.step(state, noisy, step, text), rtol=0, atol=1e-5)


@torch.no_grad()
def test_later_chunks_and_those_outside_of_the_window_change_nothing():
    # two layers: what a chunk sees has itself seen two chunks more
    model = make_backbone()
    policy = memory_policy("anchor", replace(LENGTHS, window_frames=9))
    noisy, steps, embeds = draw_clip(21)
    clips, text = make_clips(model, policy, 21), model.text_context(embeds)
    before = clips.predict(noisy, steps, text).split(CHUNK, dim=1)
    # chunk 1 is neither sink nor local to chunks 3 and later; chunk 2 carries it on to 3
    for changed, touched in ((0, range(7)), (1, (1, 2, 3)), (4, (4, 5, 6)), (6, (6,))):
        other = noisy.clone()
        other[:, changed * CHUNK : (changed + 1) * CHUNK] += 1
        after = clips.predict(other, steps, text).split(CHUNK, dim=1)
        moved = [
            index
            for index, (a, b) in enumerate(zip(before, after, strict=True))
            if (a - b).abs().max() > 1e-4
        ]
        assert moved == list(touched)
        for index in set(range(7)) - set(touched):
            assert_close(after[index], before[index], rtol=0, atol=1e-6)


def test_a_noisy_past_has_no_other_kind_and_no_switch():
    plan = plan_clip(memory_policy("anchor", LENGTHS), 21, None, past="noisy")
    assert [block.kind for block in plan.blocks] == ["noisy"] * 7
    assert [block.frame for block in plan.blocks] == list(range(0, 21, CHUNK))
    seen = [[plan.layout.keys[read] for read in reads] for reads in plan.layout.reads]
    assert [(read.block, read.position) for read in seen[6]] == [(0, 0), (4, 12), (5, 15), (6, 18)]
    with pytest.raises(ValueError, match="frame 9 and the past is noisy"):
        plan_clip(memory_policy("anchor", LENGTHS), 21, 9, past="noisy")


def ode_config(**changes):
    recipe = load_recipe("wan-1.3b")
    assert isinstance(recipe, WanRecipe)
    return OdeConfig.model_validate({**recipe.ode.model_dump(), **changes})


def make_trainer(folder, *, batch=2, sampler=SAMPLER, processes=ALONE):
    return OdeTrainer(
        ode_config(iterations=4, batch=batch, lr=3e-3),
        make_backbone(),
        Pairs(folder),
        NumberedPrompts(),
        memory_policy("anchor", LENGTHS),
        sampler,
        processes,
    )


def test_the_loss_is_that_of_the_clean_prediction_against_the_end(tmp_path):
    make_folder(tmp_path)
    trainer, student = make_trainer(tmp_path), make_backbone()
    clips = make_clips(student, memory_policy("anchor", LENGTHS), 6)
    errors = []
    for row in (0, 1):
        index, steps = trainer._index(row), trainer._steps(row)
        (path,) = Pairs(tmp_path).latents([index])
        noisy = torch.cat([path[steps[0], :CHUNK], path[steps[1], CHUNK:]])[None]
        text = student.text_context(NumberedPrompts().pair([index])[0])
        clean = clips.predict(noisy, steps[None], text)
        errors.append((clean - path[4]).square().mean().item())
    assert trainer.advance()["loss"] == pytest.approx(sum(errors) / 2, rel=1e-5)


def test_pairs_of_another_sampler_are_refused(tmp_path):
    make_folder(tmp_path)
    other = SamplerConfig(steps=(1000, 500))
    with pytest.raises(ConfigError, match=r"the student has \(1000, 500\) with 5\.0"):
        make_trainer(tmp_path, sampler=other)


def test_the_loss_falls_and_every_weight_learns(tmp_path):
    make_folder(tmp_path)
    trainer = make_trainer(tmp_path, batch=5)
    before = {name: weight.clone() for name, weight in trainer.student.state_dict().items()}
    losses = []
    for _ in range(60):
        losses.append(trainer.advance()["loss"])
        trainer.step += 1
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    for name, weight in trainer.student.state_dict().items():
        assert not torch.equal(weight, before[name]), name
        assert not torch.equal(trainer.ema.weights[name], weight), name
        assert not torch.equal(trainer.ema.weights[name], before[name]), name


def test_draws_are_functions_of_seed_step_and_row(tmp_path):
    make_folder(tmp_path)
    other = Processes(rank=1, count=2)
    whole, second = make_trainer(tmp_path), make_trainer(tmp_path, processes=other)
    seen, steps = [], []
    for step in range(5):
        whole.step = second.step = step
        assert whole._index(1) == second._index(1)
        assert torch.equal(whole._steps(1), second._steps(1))
        seen += [whole._index(0), whole._index(1)]
        steps += [*whole._steps(0).tolist(), *whole._steps(1).tolist()]
    # each pair once, then each once more
    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
    assert seen[:5] != seen[5:]
    assert set(steps) == {0, 1, 2, 3}


def test_training_resumes_to_the_same_weights(tmp_path):
    make_folder(tmp_path)
    whole, first, resumed = (make_trainer(tmp_path) for _ in range(3))
    train(whole, 4, CheckpointStore(tmp_path / "whole"), lambda _: None)
    checkpoint = CheckpointStore(tmp_path / "parts")
    train(first, 2, checkpoint, lambda _: None)
    train(resumed, 4, checkpoint, lambda _: None)
    assert resumed.step == 4
    for name, weight in whole.student.state_dict().items():
        assert_close(resumed.student.state_dict()[name], weight, rtol=0, atol=0)
        assert_close(resumed.ema.weights[name], whole.ema.weights[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ode.iterations=0", "[ode]: iterations is 0; it must be a whole number, at least 1"),
        ("ode.batch=0", "[ode]: batch is 0; it must be a whole number, at least 1"),
        ("ode.lr=0.0", "[ode]: lr is 0.0; it must be a number, above 0"),
        ("ode.clip=-1.0", "[ode]: clip is -1.0; it must be a number, above 0"),
        ("ode.ema=1.0", "[ode]: ema is 1.0; it must be a number, at least 0 and below 1"),
        ("ode.betas=[0.9, 1.0]", "[ode]: betas is 1.0; it must be a number, at least 0 and below"),
        ("pairs.shard=0", "[pairs]: shard is 0; it must be a whole number, at least 1"),
        ("pairs.solver=rk4", "[pairs]: solver is 'rk4'; choose one of heun, euler"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ConfigError) as caught:
        load_recipe("wan-1.3b", [setting])
    assert message in str(caught.value)


def test_clips_of_broken_chunks_are_refused():
    with pytest.raises(ConfigError, match="frames is 7; it must be a multiple of the chunk, 3"):
        make_clips(make_backbone(), memory_policy("anchor", LENGTHS), 7)
