"""Everything that a newcomer copies from works: profiles, examples, the README and the demonstration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
QEMUNET = str(BIN / "qemunet")
PROFILES = sorted((TREE / "profiles").glob("*.toml"))
EXAMPLES = sorted((TREE / "examples").glob("*.toml"))
WALKS = ("host-plug", "two-switches", "two-namespaces", "switch-in-a-namespace", "vlans", "vlans-in-a-namespace")
README = TREE / "README.md"
SNIPPET = re.compile(r"<!-- run -->\s*```\w*\n(.*?)```", re.DOTALL)

# Root without a single capability, whom the tree still belongs to: what an ordinary user in his own tree is.
ORDINARY = ["unshare", "--user", "--"] if os.geteuid() == 0 else []


def name(path: Path) -> str:
    return path.stem


def ordinary(*args: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "XDG_RUNTIME_DIR"}
    return subprocess.run([*ORDINARY, QEMUNET, *args], cwd=TREE, env=env, capture_output=True, text=True)


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory whose sockets fit the 108 bytes that the kernel gives a socket's path."""
    directory = Path(tempfile.mkdtemp(prefix="qn-"))
    yield directory
    shutil.rmtree(directory)


def test_there_are_profiles_and_examples() -> None:
    """An empty folder would make every test below true."""
    assert PROFILES
    assert EXAMPLES


@pytest.mark.parametrize("walk", WALKS)
def test_a_classic_walk_through_is_less_than_a_page(walk: str) -> None:
    """Whoever reads one has it before him as a whole."""
    assert len((TREE / "examples" / f"{walk}.toml").read_text().splitlines()) < 40


@pytest.mark.parametrize("profile", PROFILES, ids=name)
def test_a_profile_loads(profile: Path, tmp_path: Path) -> None:
    """A guest of each profile is a valid lab."""
    lab = tmp_path / "lab.toml"
    lab.write_text(f'[vm.one]\nprofile = "{profile.stem}"\nboot.guest = "tiny"\n[[vm.one.nic]]\nmode = "user"\n')
    result = ordinary("check", str(lab))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["check", "plan"])
@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_an_example_is_valid_for_anybody(example: Path, command: str) -> None:
    """`check` and `plan` need no rights and end with 0."""
    result = ordinary(command, str(example.relative_to(TREE)))
    assert result.returncode == 0, result.stderr


def test_the_readme_begins_with_two_commands() -> None:
    """A newcomer finds `make demo` and `make test`, and runnable snippets."""
    text = README.read_text()
    assert "make demo" in text
    assert "make test" in text
    assert SNIPPET.search(text), "no snippet is marked with <!-- run -->"


@pytest.mark.parametrize("number", range(len(SNIPPET.findall(README.read_text())) if README.exists() else 0))
def test_a_readme_snippet_runs(number: int, runtime: Path) -> None:
    """Each snippet marked with <!-- run --> ends with 0, started in the tree with qemunet in the path."""
    snippet = SNIPPET.findall(README.read_text())[number]
    private = ["unshare", "--net", "--"] if os.geteuid() == 0 else []
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "QEMUNET_RUNTIME_DIR": str(runtime / "run")}
    result = subprocess.run(
        [*private, "sh", "-eu", "-c", snippet], cwd=TREE, env=env, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, f"{snippet}\n{result.stdout}\n{result.stderr}"


@pytest.mark.guest
def test_the_demonstration_leaves_everything_as_it_was() -> None:
    """`.ci/demo` ends with 0 where it may make a namespace, and says what it lacks where it may not."""
    result = subprocess.run([sys.executable, ".ci/demo"], cwd=TREE, capture_output=True, text=True)
    if result.returncode == 3:
        assert os.geteuid() != 0, result.stderr
        assert "hint: " in result.stderr
    else:
        assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
        assert "Everything is as it was." in result.stdout
