"""The kernels' library: which compilers build it, and what a wheel is without it."""

import ctypes
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.browsing import skip_or_fail
from helpers.distributions import build, run
from helpers.paths import ROOT

NATIVE = Path("labml_bcn", "native")
LIBRARY = NATIVE / "_kernels.so"


def environment(**more: str) -> dict[str, str]:
    """The environment without the variables that choose how to build."""
    ours = ("CXX", "LABML_BCN")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | more


def require_command(name: str) -> None:
    """Skip the test where a command is missing, and under CI fail it."""
    if not shutil.which(name):
        skip_or_fail(name)


@pytest.fixture(scope="module")
def library_by(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The library as a compiler builds it, which must have nothing to remark."""

    @functools.cache
    def library_by(compiler: str) -> Path:
        require_command(compiler)
        out = tmp_path_factory.mktemp("library")
        done = compile_library(out, CXX=f"{compiler} -Wall -Wextra -Werror")
        assert (done.returncode, done.stderr) == (0, "")
        (built,) = out.iterdir()
        assert done.stdout == f"{built}\n"
        return built

    return library_by


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_each_compiler_builds_the_library(library_by, compiler):
    library = ctypes.CDLL(str(library_by(compiler)))
    assert library.bcn_interface() > 0
    library.bcn_instructions.restype = ctypes.c_char_p
    assert library.bcn_instructions() in (b"AVX-512", b"AVX2", b"base")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_library_shows_its_interface_alone(library_by, compiler):
    shown = run("nm", "-D", "--defined-only", library_by(compiler), cwd=ROOT).stdout
    names = {line.split()[-1] for line in shown.splitlines()}
    declared = (ROOT / NATIVE / "src" / "interface.h").read_text("utf-8")
    assert names == set(re.findall(r"^BCN_API .*?(bcn_\w+)\(", declared, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "emulator", "instructions"),
    [
        ("aarch64-linux-gnu-g++", "qemu-aarch64 -L /usr/aarch64-linux-gnu", "base"),
        ("g++", "qemu-x86_64 -cpu Nehalem", "base"),
        ("clang++", "qemu-x86_64 -cpu Nehalem", "base"),
        ("g++", "qemu-x86_64 -cpu Haswell", "AVX2"),
    ],
)
def test_kernels_agree_with_loops_on_other_machines(
    library_by, compiler, emulator, instructions, tmp_path
):
    library, emulated = library_by(compiler), emulator.split()
    require_command(emulated[0])
    source = ROOT / "tests" / "helpers" / "kernels_alone.cpp"
    program = tmp_path / "kernels_alone"
    done = run(
        *(compiler, "-std=c++17", "-I", ROOT / NATIVE / "src", source, library),
        *(f"-Wl,-rpath,{library.parent}", "-o", program),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    done = run(*emulated, program, cwd=tmp_path, env=environment())
    assert (done.returncode, done.stdout) == (0, f"{instructions}\n"), done.stderr


def compile_library(out: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the build command."""
    command = [sys.executable, "-I", ROOT / NATIVE / "build.py", "--out", out]
    return run(*command, cwd=ROOT, env=environment(**env))


def quick_compiler(folder: Path, machine: str) -> str:
    """A compiler that logs its arguments, and writes a word where code is asked for."""
    return script(
        folder / "quick",
        f"""
        echo "$*" >> {folder}/log
        case "$*" in
            *-dumpmachine*) echo {machine} ;;
            *-print-file-name=*) echo none ;;
            *) while [ "$1" != -o ]; do shift; done; echo compiled > "$2" ;;
        esac
        """,
    )


@pytest.fixture
def compiling(tmp_path: Path) -> str:
    return quick_compiler(tmp_path, "x86_64-linux-gnu")


@pytest.fixture
def failing(tmp_path: Path) -> str:
    """A compiler that knows its machine, and else has an error to tell."""
    return script(
        tmp_path / "failing",
        """
        if [ "$1" = -dumpmachine ]; then echo x86_64-linux-gnu; exit; fi
        echo "In file included from a:" >&2
        echo "kernels.cpp:7: error: no vectors here" >&2
        exit 1
        """,
    )


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return str(path)


def test_an_error_is_shown_and_leaves_an_older_library(failing, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / LIBRARY.name).write_text("older")
    done = compile_library(out, CXX=failing)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(
        "In file included from a:\n"
        "kernels.cpp:7: error: no vectors here\n\n"
        f"{failing} failed: kernels.cpp:7: error: no vectors here\n"
    )
    assert [path.read_text() for path in out.iterdir()] == ["older"]


@pytest.mark.parametrize(
    "absent", [{"CXX": "g+++ -O2"}, {"PATH": ""}], ids=["CXX", "PATH"]
)
def test_a_missing_compiler_is_named(absent, tmp_path):
    done = compile_library(tmp_path, **absent)
    assert done.returncode == 1
    tried = "CXX is g+++" if "CXX" in absent else "tried c++, g++, clang++"
    assert f"no C++ compiler was found ({tried}); install g++ or Clang" in done.stderr


@pytest.mark.parametrize(
    ("machine", "copies"), [("x86_64-linux-gnu", 3), ("aarch64-linux-gnu", 1)]
)
def test_the_copy_for_every_machine_is_linked_first(machine, copies, tmp_path):
    quick = quick_compiler(tmp_path, machine)
    assert compile_library(tmp_path / "out", CXX=quick).returncode == 0
    log = (tmp_path / "log").read_text().splitlines()
    (link,) = (line for line in log if "-shared" in line)
    objects = [Path(word).name for word in link.split() if word.endswith(".o")]
    assert objects[0] == "kernels_base.o"
    assert len(objects) == copies + 1


# What a wheel holds, seen on a checkout of the sdist's files.


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    return build("sdist", ROOT, out, environment())[0]


@pytest.fixture
def checkout(sdist: Path, tmp_path: Path) -> Path:
    """The sdist's files, and a library that was built from older sources."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (found,) = tmp_path.glob("labml_bcn-*")
    (found / LIBRARY).write_text("older")
    return found


def build_wheel(checkout: Path, **env: str) -> tuple[str, bytes | None, str]:
    """Build a wheel; return its tag, the library in it, and what was printed."""
    out = checkout.parent / "out"
    wheel, printed = build("wheel", checkout, out, environment(**env))
    with zipfile.ZipFile(wheel) as archive:
        held = LIBRARY.as_posix() in archive.namelist()
        library = archive.read(LIBRARY.as_posix()) if held else None
    return wheel.stem.split("-", 2)[2], library, printed


@pytest.mark.slow
def test_the_sdist_holds_the_sources_and_no_library(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = (ROOT / NATIVE / "src").iterdir()
    wanted = {(NATIVE / "src" / path.name).as_posix() for path in sources}
    assert wanted | {"hatch_build.py", "labml_bcn/native/build.py"} <= names
    assert not [name for name in names if "/_kernels." in name]


@pytest.mark.slow
def test_with_a_compiler_the_wheel_is_for_this_platform(checkout, compiling):
    tag, library, printed = build_wheel(checkout, CXX=compiling)
    assert tag == f"py3-none-linux_{platform.machine()}"
    assert library == b"compiled\n"
    assert "no C++ kernels" not in printed
    assert (checkout / LIBRARY).read_text() == "older"


@pytest.mark.slow
@pytest.mark.parametrize("native", ["", "0"])
def test_without_a_compiler_or_wish_the_wheel_is_for_all(native, checkout):
    wish = {"LABML_BCN_NATIVE": native} if native else {"PATH": ""}
    tag, library, printed = build_wheel(checkout, **wish)
    assert (tag, library) == ("py3-none-any", None)
    (line,) = (line for line in printed.splitlines() if "no C++ kernels" in line)
    assert "plain PyTorch operations: " in line
    assert ("LABML_BCN_NATIVE is 0" if native else "install g++ or Clang") in line


@pytest.mark.slow
def test_an_error_of_the_compiler_is_one_line_and_no_obstacle(checkout, failing):
    tag, library, printed = build_wheel(checkout, CXX=failing)
    assert (tag, library) == ("py3-none-any", None)
    (line,) = (line for line in printed.splitlines() if "no C++ kernels" in line)
    assert line.endswith("failing failed: kernels.cpp:7: error: no vectors here")


@pytest.mark.slow
def test_an_error_ends_the_build_if_kernels_are_required(checkout, failing):
    with pytest.raises(AssertionError, match="no vectors here") as caught:
        build_wheel(checkout, CXX=failing, LABML_BCN_NATIVE="require")
    assert "LABML_BCN_NATIVE is require" in str(caught.value)
    assert (checkout / LIBRARY).read_text() == "older"


def prepare_editable(checkout: Path, **env: str) -> None:
    """Do what an editable install does before it writes its wheel."""
    code = (
        "from hatchling.builders.wheel import WheelBuilder\n"
        "builder = WheelBuilder('.')\n"
        "list(builder.build(directory='d', versions=['editable'], hooks_only=True))\n"
    )
    done = run(sys.executable, "-c", code, cwd=checkout, env=environment(**env))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_editable_install_compiles_into_the_checkout(checkout, compiling):
    prepare_editable(checkout, CXX=compiling)
    assert (checkout / LIBRARY).read_text() == "compiled\n"


@pytest.mark.slow
def test_an_editable_install_leaves_no_library_of_older_sources(checkout):
    prepare_editable(checkout, PATH="")
    assert not (checkout / LIBRARY).exists()
