"""What an install must hold, checked without building one (`make build` looks inside the wheel)."""

import subprocess
import sys
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from afstream.families.pocket.model import POCKET_PATH

ROOT = Path(__file__).parents[1]
PACKAGES = [
    ROOT / "src" / "afstream",
    ROOT / "kernels" / "afstream_kernels",
    ROOT / "cli" / "afstream_cli",
]
POCKET_LIMIT_BYTES = 10_000_000


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_is_typed_and_importable(package: Path):
    assert (package / "py.typed").is_file()
    assert find_spec(package.name) is not None


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_folder_of_modules_is_a_package(package: Path):
    # Without an __init__.py it imports all the same, but the import contracts never see it.
    folders = {path.parent for path in package.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize("folder", ["kernels", "cli"])
def test_a_root_folder_is_no_package(folder: str):
    # With one, `import kernels` from a checkout would hide the installed package of that name.
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="afstream")
    assert command.value == "afstream_cli.app:main"
    assert callable(command.load())


def test_help_loads_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from afstream_cli.app import app;"
        "print(CliRunner().invoke(app, ['--help']).exit_code, 'torch' in sys.modules)"
    )
    assert run_python(code).split() == ["0", "False"]


def test_the_public_names_are_there_and_importing_them_loads_no_torch():
    code = (
        "import sys, afstream; print('torch' in sys.modules);"
        "from afstream import MEMORIES, MemoryPolicy, StreamConfig, VideoModel;"
        "print('torch' in sys.modules);"
        "print({name for name in afstream.__all__ if getattr(afstream, name, None) is None})"
    )
    assert run_python(code).split() == ["False", "False", "set()"]


def test_the_version_is_told_once():
    assert run_python("import afstream; print(afstream.__version__)").strip() == version("afstream")


def test_the_pocket_weights_ship_and_are_small():
    assert POCKET_PATH.is_file()
    assert POCKET_PATH.stat().st_size <= POCKET_LIMIT_BYTES
