"""Compile the kernels: `python labml_bcn/native/build.py`.

The build hook of the package runs this file too, where torch is not installed. So
it needs the standard library alone, and is run as a file: to import it as part of
`labml_bcn` would import torch.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
NAME = "_kernels" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

# Microsoft's compiler lacks the vector extensions that the kernels are written in.
COMPILERS = ["clang++"] if sys.platform == "win32" else ["c++", "g++", "clang++"]
# A multiplication and a sum may become one instruction. Sums are not reordered.
FLAGS = [
    *("-std=c++17", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    # How vectors are passed between files: the kernels never do.
    *("-Wno-psabi", "-Wno-ignored-attributes"),
]
OPTIMIZED = ["-O3"]
SANITIZED = [
    *("-O0", "-g"),  # with -O1 the compiler takes three times as long
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
]
# kernels.cpp is compiled once for each; the library chooses one while running. Base
# comes first: several copies can hold the same function of the standard library,
# the linker keeps the first one, and that must run on every machine.
INSTRUCTIONS = {
    "base": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"],
}


class BuildError(Exception):
    """The library was not built: why, in one line, and all that the compiler said."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


def build(folder: Path = HERE, sanitize: bool = False) -> Path:
    """Compile the library into a folder, and return its path.

    It is moved there when it is complete. A process that has loaded an older one
    keeps that, and after an error nothing has changed.
    """
    compiler = find_compiler()
    machine = run([*compiler, "-dumpmachine"]).strip()
    kind = SANITIZED if sanitize else OPTIMIZED
    folder.mkdir(parents=True, exist_ok=True)
    # A folder beside it: only within a file system is a file moved in one step.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as temporary:
        work = Path(temporary)
        compiled = compile_units([*compiler, *kind], machine, work)
        made = work / NAME
        runtime = [] if sanitize else runtime_flags(compiler, machine)
        run([*compiler, *kind, "-shared", "-o", made, *compiled, *runtime])
        return made.replace(folder / NAME)


def find_compiler() -> list[str]:
    """Return the command of the C++ compiler: CXX, or the first on the PATH."""
    chosen = shlex.split(os.environ.get("CXX", ""), posix=os.name == "posix")
    for command in [chosen] if chosen else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    tried = f"CXX is {chosen[0]}" if chosen else f"tried {', '.join(COMPILERS)}"
    wanted = "Clang" if COMPILERS == ["clang++"] else "g++ or Clang"
    raise BuildError(f"no C++ compiler was found ({tried}); install {wanted}")


def compile_units(command: list[str], machine: str, folder: Path) -> list[Path]:
    """Compile the sources, several at once, and return the object files."""
    if "windows" not in machine:  # where all code can lie anywhere
        command = [*command, "-fPIC"]
    x86 = machine.startswith(("x86_64", "amd64"))
    units = {
        f"kernels_{name}.o": ["kernels.cpp", f"-DBCN_KERNELS={name}", *flags]
        for name, flags in INSTRUCTIONS.items()
        if x86 or name == "base"
    }
    units["library.o"] = ["library.cpp"]

    def compile_unit(name: str) -> Path:
        source, *flags = units[name]
        run([*command, *FLAGS, *flags, "-c", SOURCES / source, "-o", folder / name])
        return folder / name

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*pool.map(compile_unit, units)]


def runtime_flags(compiler: list[str], machine: str) -> list[str]:
    """Return the flags that link the compiler's own libraries into ours.

    Whatever else is loaded may bring older ones. They are kept to ourselves.
    """

    def path_of(library: str) -> str:
        return run([*compiler, f"-print-file-name={library}"]).strip()

    if "linux" in machine and path_of("libstdc++.a") != "libstdc++.a":
        return ["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"]
    if "windows" in machine:  # Clang does not link what tells the instruction sets
        asked = [*compiler, "--rtlib=compiler-rt", "-print-libgcc-file-name"]
        return [run(asked).strip()]
    return []


def run(command: Sequence[str | Path]) -> str:
    """Run the compiler, and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise BuildError(f"{command[0]} failed: {first}", done.stderr)
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Build the library, and print its path or what went wrong."""
    parser = argparse.ArgumentParser(description="Compile the kernels.")
    parser.add_argument(
        *("--out", "-o"), type=Path, default=HERE, help="folder (default: the package)"
    )
    parser.add_argument(
        *("--sanitize", "-s"),
        action="store_true",
        help="find misuse of memory and undefined behaviour while running",
    )
    given = parser.parse_args(arguments)
    try:
        print(build(given.out, given.sanitize))
    except BuildError as error:
        print(error.output, error, sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
