"""What is published where: every name is used, and the guide shows the same commands."""

from pathlib import Path, PurePosixPath

import pytest

from afstream.checkpoints.findings import PLAIN
from afstream.checkpoints.layouts.entering import find_folder
from afstream.checkpoints.parts import find_tiny
from afstream.errors import ConfigError
from afstream.families.presets import PRESETS, recognise_among
from afstream.hub.catalogue import CATALOGUE, FOLDER, STUDENTS, published

GUIDE = Path(__file__).parents[2] / "docs" / "models.md"
PARTS = [row.name for row in CATALOGUE.values() if row.backbone]


def laid_out(folder, model, **options):
    """A folder with empty files in the places of a model's."""
    for one in model.wanted(**options):
        path = folder / one.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_every_preset_has_files_and_every_student_a_preset():
    assert [name for row in CATALOGUE.values() for name in row.presets] == list(PRESETS)
    assert set(STUDENTS) == {row.name for row in CATALOGUE.values() if row.paths("student")}


@pytest.mark.parametrize("name", STUDENTS)
def test_what_is_downloaded_is_recognised_by_its_names(name):
    model = CATALOGUE[name]
    paths = [str(FOLDER / name / one.path) for one in model.files]
    assert recognise_among(paths) == model.presets[0] == name


@pytest.mark.parametrize("name", STUDENTS)
def test_every_name_that_is_recognised_stands_in_the_catalogue(name):
    files = PRESETS[name].files
    assert files is CATALOGUE[name]
    assert all(PurePosixPath(student).name == student for student in files.students)
    assert len(files.loras) == len(files.files) - 1


@pytest.mark.parametrize("name", PARTS)
def test_the_parts_are_a_folder_that_lacks_nothing(tmp_path, name):
    beside = find_folder(laid_out(tmp_path / "beside", CATALOGUE[name]))
    assert beside
    assert not beside.missing(("VAE", "text encoder", "tokenizer"))
    whole = find_folder(laid_out(tmp_path / "whole", CATALOGUE[name], with_backbone=True))
    assert whole
    assert not whole.missing()


def test_the_tiny_vae_is_found_where_it_is_put(tmp_path):
    model = CATALOGUE["tiny-vae"]
    folder = laid_out(tmp_path, model)
    assert find_tiny(folder) == folder / model.files[0].path


def test_only_the_parts_have_a_backbone():
    with pytest.raises(ConfigError, match=r"memflow has no backbone .* wan-1\.3b, wan-14b"):
        CATALOGUE["memflow"].wanted(with_backbone=True)


def test_a_name_or_a_preset_names_a_model():
    assert published("longlive-infinity") is published("longlive")
    with pytest.raises(ConfigError, match="no model 'longlive-2' to download; choose one of wan"):
        published("longlive-2")


def test_commands_fit_any_folder():
    shown = CATALOGUE["longlive"].use(Path("my own/l"), "longlive-infinity")
    assert shown.splitlines() == [
        "afstream generate --prompts timeline.txt --model 'my own/wan-1.3b' \\",
        "    --student 'my own/l/models/longlive_base.pt' --lora 'my own/l/models/lora.pt' \\",
        "    --preset longlive-infinity",
    ]


def test_inspect_names_every_student():
    assert all(name in PLAIN for name in STUDENTS)


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_guide_has_lines_to_paste(name):
    """In one section: the command, the same by hand, and how the files are then used."""
    model, folder = CATALOGUE[name], FOLDER / name
    # of 14B only the backbone is not in the smaller repository
    whole = name == "wan-14b"
    command = f"\nafstream download {name}{' --backbone' * whole}\n"
    use = () if model.backbone else (model.use(folder),)
    wanted = [command, model.by_hand(folder, with_backbone=whole), *use]
    sections = GUIDE.read_text(encoding="utf-8").split("\n## ")
    assert any(all(line in section for line in wanted) for section in sections), wanted


@pytest.mark.parametrize("name", STUDENTS)
def test_the_guide_names_the_repository_beside_the_settings(name):
    sections = GUIDE.read_text(encoding="utf-8").split("\n## ")
    (section,) = (part for part in sections if f"| preset | `{name}` |" in part)
    assert f"`{CATALOGUE[name].repository}`" in section
    for one in CATALOGUE[name].files:
        assert f"`{one.path}`" in section
