"""Recipes: complete, typed, within limits; each fault one sentence that says where it is."""

from pathlib import Path

import pytest

from afstream.errors import ConfigError
from afstream.training.recipes.reading import FOLDER, built_in, load_recipe, recipe_name
from afstream.training.recipes.tables import PocketRecipe, WanRecipe
from afstream.training.runs.opening import open_run

POCKET = (FOLDER / "pocket.toml").read_text()


def test_those_that_ship_can_be_read():
    kinds = {name: type(load_recipe(name)) for name in built_in()}
    assert kinds == {"pocket": PocketRecipe, "pocket-quick": PocketRecipe, "wan-1.3b": WanRecipe}


def test_the_reference_figures_of_the_method():
    recipe = load_recipe("wan-1.3b")
    assert isinstance(recipe, WanRecipe)
    short, long = recipe.short, recipe.long
    assert (short.lr, short.critic_lr, short.iterations, short.batch) == (2e-6, 4e-7, 700, 64)
    assert (long.lr, long.critic_lr, long.iterations, long.batch) == (1e-5, 2e-6, 3000, 64)
    assert short.last_frame == 21
    assert long.boundaries == tuple(range(21, 220, 18))
    assert long.betas == (0.0, 0.999)
    assert (recipe.lora.rank, recipe.lora.alpha) == (256, 256)
    # iteration 200
    assert long.ema_from * long.critic_updates == 200


def test_a_setting_changes_one_value():
    recipe = load_recipe(
        "pocket", ["long.lr=2e-4", "long.memory=recache", "short.betas=[0.5, 0.9]"]
    )
    assert recipe.long.lr == 2e-4
    # a name goes without quotes
    assert recipe.long.memory == "recache"
    assert recipe.short.betas == (0.5, 0.9)
    assert recipe.short.lr == load_recipe("pocket").short.lr


def test_a_whole_number_stands_for_a_number_too():
    assert load_recipe("pocket", ["long.guidance=3"]).long.guidance == 3.0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("long.lr=0", "pocket.toml, [long]: lr is 0; it must be a number, above 0"),
        ("long.lr=inf", "[long]: lr is inf; it must be a number, above 0"),
        ("long.seed=2e9", "seed is 2000000000.0; it must be a whole number, 0 to 1000000000"),
        ("long.ema=1.0", "[long]: ema is 1.0; it must be a number, at least 0 and below 1"),
        ("long.lr=nan", "[long]: lr is nan; it must be a number, above 0"),
        ("long.iterations=2.5", "[long]: iterations is 2.5; it must be a whole number, at least 1"),
        ("long.iterations=true", "iterations is true; it must be a whole number, at least 1"),
        ("long.switch=1", "[long]: switch is 1; it must be true or false"),
        ("teacher.drop_share=1.5", "drop_share is 1.5; it must be a number, 0 to 1"),
        ("long.memory=total", "memory is 'total'; choose one of anchor, recache, recapture"),
        ("long.betas=[0.9]", "betas is [0.9]; it must be a list of 2"),
        ("clips.switch_frames=[]", "switch_frames is []; it must be a list of one or more"),
        ("clips.switch_frames=[-3]", "switch_frames is -3; it must be a whole number, at least 0"),
        ("clips.switch_frames=[4]", "a switch at latent frame 4 is no chunk start"),
        ("sheet.timeline=7", "timeline is 7; it must be a string"),
        ("sheet.timeline=0:99", "[sheet]: "),
        ("long=3", "pocket.toml: long is 3; it must be a table"),
        ("long.gidance=3", "[long]: unknown key 'gidance' (did you mean guidance?); it may hold"),
        ("extra.lr=3", "pocket.toml: unknown key 'extra'; it may hold model, start, vae"),
        ("model=sora", "model is 'sora'; choose one of pocket, wan"),
        ("long.lr.much=3", "lr is no table of the recipe"),
        ("=3", "write it as table.key=value"),
        ("long.iterations=7", "iterations is 7; it must be a multiple of critic_updates, 3"),
        ("long.max_frames=21", "a switch needs a second window, so max_frames of 39 or more"),
        ("long.overlap_frames=4", "overlap_frames is 4; it must be a multiple of the chunk, 3"),
        ("long.max_frames=12", "the first must be below the second"),
        ("vae.window_frames=16", "[vae]: window_frames is 16; it must be 1 + 4 n"),
        ("clips.window_frames=18", "the teacher must see what it was trained on"),
    ],
)
def test_what_is_not_allowed_is_told_with_its_place(setting: str, words: str):
    with pytest.raises(ConfigError) as caught:
        load_recipe("pocket", [setting])
    assert words in str(caught.value)


def test_an_embedded_student_cannot_be_exported():
    with pytest.raises(ConfigError, match="no stage student to export"):
        load_recipe("pocket", ["start.student=embedded", "export.stage=student"])


def test_every_key_must_be_there(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(POCKET.replace("guidance = 2.0\n", "", 1))
    with pytest.raises(ConfigError, match=r"^mine.toml, \[short\]: guidance is missing; a recipe"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"lr = = 3", "cannot be read as TOML"), (b"\xff\xfe", "cannot be read as TOML")],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load_recipe(str(path))


def test_what_a_recipe_is_called():
    """Under runs/, where a name with a dot keeps all of it."""
    assert recipe_name("wan-1.3b") == "wan-1.3b"
    assert recipe_name("mine/other.toml") == "other"


def keys(recipe):
    """All keys of a recipe, such as `long.lr`."""
    tables = recipe.model_dump()
    return [
        f"{table}.{key}"
        for table, value in tables.items()
        if isinstance(value, dict)
        for key in value
    ]


TOO_MUCH = ("inf", "-inf", "nan", "1e400", "1" * 5000, "9" * 400, "[" * 3000, "1e39", "-1")
NOT_FINITE = ("inf", "-inf", "nan", "1e400")
# texts may be anything but a number
TEXTS = ("start.", "sheet.timeline")


@pytest.mark.parametrize("name", ["pocket", "wan-1.3b"])
def test_no_key_takes_what_is_absurd(name):
    for key in keys(load_recipe(name)):
        for value in TOO_MUCH:
            if key.startswith(TEXTS) and value.startswith("["):
                # a text without quotes
                continue
            with pytest.raises(ConfigError) as caught:
                load_recipe(name, [f"{key}={value}"])
            said = str(caught.value)
            assert len(said) < 300, (key, value[:9])
            assert "\n" not in said


SIZES = [
    ("pocket", "long.batch=99999999999999999999", "it may be at most 65,536"),
    ("pocket", "clips.clips=1_000_000_000_000", "it may be at most 1,000,000"),
    ("pocket", "long.max_frames=1_000_000_000", "it may be at most 10,000"),
    ("pocket", "vae.window_frames=85", "a clip has 81 video frames"),
    ("pocket", "watch.history=10_000_000", "it may be at most 1,000,000"),
    ("pocket", "teacher.steps=10_000_000_000", "it may be at most 1,000,000,000"),
    ("pocket", "teacher.lr=1e39", "it is too large"),
    ("pocket", "sheet.timeline=@duration 99:00:00\na red ball", "at most 60"),
    ("wan-1.3b", "sizes.width_px=99999999999999999999", "it may be at most 16,384"),
    ("wan-1.3b", "pairs.pairs=10_000_000", "it may be at most 1,000,000"),
    ("wan-1.3b", "lora.rank=1_000_000", "it may be at most 4,096"),
    ("pocket", "model={a=1}", "choose one of pocket, wan"),
    ("pocket", "a" + ".a" * 5000 + "=1", "tables within tables without end"),
]


@pytest.mark.parametrize(("name", "setting", "words"), SIZES, ids=[case[1][:20] for case in SIZES])
def test_sizes_have_bounds(name, setting, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(name, [setting])


def test_the_sheets_timeline_has_words_that_the_model_knows(tmp_path):
    for setting in ("sheet.timeline=zzz", "sheet.timeline=''", "sheet.timeline='@duration'"):
        with pytest.raises(ConfigError, match=r"sheet\]?[.:]"):
            open_run(load_recipe("pocket", [setting]), tmp_path)


@pytest.mark.parametrize(
    "text", ["a = " + "1" * 5000, "a = " + "[" * 5000, "a.b" + ".c" * 5000 + " = 1"]
)
def test_a_file_that_is_no_recipe_is_one_sentence(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(f'model = "pocket"\n{text}\n')
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load_recipe(str(path))
    with pytest.raises(ConfigError, match="there is no recipe"):
        load_recipe("x" * 5000 + ".toml")
