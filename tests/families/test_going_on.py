"""A film of a Wan-shaped model goes on: states, offloaded layers, students, files given by name."""

import os

import pytest

from afstream.film.film import Film
from afstream.film.record import read_record
from afstream_cli.app import main

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

PROMPTS = "0:00 a red star drifts left\n0:00.5 a blue star over the meadow\n0:02 cut a red star\n"
CHUNKS = 5


class Killed(BaseException):
    """Nothing is told of it, and nothing is closed."""


def afstream(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(each) for each in arguments])
    return caught.value.code


def kill_after(chunks, *arguments):
    add = Film.add

    def end(film, chunk):
        if film.chunks == chunks:
            film.writer.close()
            raise Killed
        add(film, chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Film, "add", end)
        patch.setattr(Film, "__exit__", lambda *_: None)
        patch.setattr("afstream.film.states.EVERY_S", 0.0)
        patch.setattr("afstream.film.states.SHARE", 1e9)
        with pytest.raises(Killed):
            main([str(each) for each in arguments])


@pytest.mark.parametrize(
    "given",
    [
        ("--offload", "1", "--text-encoder", "cpu"),
        ("--text-encoder", "drop", "--memory", "recache"),
        ("--student", "student.pt", "--lora", "lora.safetensors:0.5", "--dtype", "bfloat16"),
    ],
)
def test_a_killed_film_of_a_wan_folder_is_resumed_to_the_same_bytes(
    models, student, lora, tmp_path, monkeypatch, given
):
    for name, source in (
        ("model", models["original"]),
        ("student.pt", student),
        ("lora.safetensors", lora),
    ):
        (tmp_path / name).symlink_to(source)
    (tmp_path / "t.txt").write_text(PROMPTS)
    monkeypatch.chdir(tmp_path)
    made = ("generate", "-p", "t.txt", "-q", "--model", "model", *given)
    made += ("--size", "32x32", "--scale", "2", "--device", "cpu", "--duration", "43f")
    assert not afstream(*made, "-o", "whole.mp4")
    kill_after(2, *made, "-o", "v.mp4")
    # files that were named from there are found from elsewhere
    monkeypatch.chdir(os.sep)
    assert not afstream("resume", tmp_path / "v.mp4", "-q")
    assert (tmp_path / "v.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    record = read_record(tmp_path / "v.json")
    assert (record.state, record.output.chunks) == ("finished", CHUNKS)


def test_a_film_does_not_go_on_with_another_model(models, tmp_path, capsys):
    (tmp_path / "t.txt").write_text(PROMPTS)
    model = tmp_path / "model"
    model.symlink_to(models["original"])
    made = ("generate", "-p", tmp_path / "t.txt", "-q", "--model", model, "--size", "32x32")
    made += ("--scale", "2", "--device", "cpu", "--duration", "43f", "-o", tmp_path / "v.mp4")
    kill_after(2, *made)
    before = (tmp_path / "v.mp4").read_bytes()
    model.unlink()
    model.symlink_to(models["diffusers"])
    assert afstream("resume", tmp_path / "v.mp4", "-q") == 2
    assert "was made with another model: its layout was 'original'" in capsys.readouterr().err
    assert (tmp_path / "v.mp4").read_bytes() == before
