"""The recipe of distribution matching: what its figures say is what is done."""

import pytest
import torch
from tests.training.tiny_run import make_trainer

from afstream.training.dmd.losses import dmd_timestep


def student_of(trainer):
    return {name: it.detach().clone() for name, it in trainer.models.student.named_parameters()}


def average_of(trainer):
    return {name: it.clone() for name, it in trainer.ema.weights.items()}


def advance(trainer):
    """One iteration, as the training loop makes it."""
    trainer.advance()
    trainer.step += 1


def test_the_moving_average_begins_with_the_update_that_the_recipe_names():
    trainer = make_trainer(iterations=4, critic_updates=1, ema=0.5, ema_from=2)
    for _ in range(2):
        advance(trainer)
        # until then it is the student itself
        assert all(map(torch.equal, average_of(trainer).values(), student_of(trainer).values()))
    before = average_of(trainer)
    advance(trainer)
    # the third update: (1 + 3) / (10 + 3) is less than 0.5, as long as the average is young
    share = 1 - 4 / 13
    for name, weight in student_of(trainer).items():
        assert not torch.equal(weight, before[name])
        torch.testing.assert_close(
            average_of(trainer)[name], before[name] + share * (weight - before[name])
        )


def test_student_and_critic_decay_as_the_recipe_says():
    def after(weight_decay):
        trainer = make_trainer(iterations=1, critic_updates=1, weight_decay=weight_decay)
        models = trainer.models.student, trainer.models.critic
        first = [[it.detach().clone() for it in model.parameters()] for model in models]
        advance(trainer)
        return first, [[it.detach().clone() for it in model.parameters()] for model in models]

    (first, with_decay), (_, without) = after(0.5), after(0.0)
    # the gradients are the same: what differs is lr times decay of where the weights began
    for whole, decayed, left in zip(first, with_decay, without, strict=True):
        for weight, one, other in zip(whole, decayed, left, strict=True):
            torch.testing.assert_close(other - one, 1e-3 * 0.5 * weight, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("full_prompts", [False, True])
def test_teacher_and_critic_read_full_prompts_where_the_recipe_says_so(full_prompts):
    trainer = make_trainer(iterations=2, critic_updates=1, batch=1, full_prompts=full_prompts)
    models, read = trainer.models, {"student": [], "critic": [], "teacher": []}
    for name, seen in read.items():
        model = getattr(models, name)

        def spy(embeds, own=model.text_context, seen=seen):
            seen.append(embeds)
            return own(embeds)

        model.text_context = spy
    advance(trainer)
    for seen in read.values():
        seen.clear()
    # the second window, which the switch opens
    advance(trainer)
    second, full = models.prompts.pair([0])[1], models.prompts.full([0])
    told = full if full_prompts else second
    assert all(torch.equal(embeds, second) for embeds in read["student"])
    assert all(torch.equal(embeds, told) for embeds in read["critic"])
    assert torch.equal(read["teacher"][0], told)
    assert [len(seen) for seen in read.values()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("drawn", "timestep"),
    # shift 5: 1000 * 5 s / (1 + 4 s), within 20 .. 980
    [(0, 20), (3, 20), (5, 25 / 1.02), (500, 2500 / 3), (900, 4500 / 4.6), (999, 980)],
)
def test_timesteps_are_shifted_and_kept_where_teachers_teach(drawn, timestep):
    assert dmd_timestep(drawn, 5.0) == pytest.approx(timestep)
