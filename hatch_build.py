"""Build the wheel with the C++ kernels, or without them if they do not compile.

The environment variable LABML_BCN_NATIVE chooses: `require` makes it an error if they
do not compile, and 0 leaves them out.
"""

import importlib.util
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.wheel import WheelBuilder

FOLDER = Path("labml_bcn", "native")
WITHOUT = "labml-bcn gets no C++ kernels and runs on plain PyTorch operations"


class KernelsHook(BuildHookInterface[Any]):
    """Compile the kernels before a wheel is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the wheel, or for an editable install into the checkout."""
        self.temporary = ExitStack()
        wish = os.environ.get("LABML_BCN_NATIVE")
        if wish == "0":
            self.app.display_warning(f"{WITHOUT}: LABML_BCN_NATIVE is 0")
            return
        native = load_build_module(Path(self.root, FOLDER, "build.py"))
        try:
            if version == "editable":
                native.build()
            else:
                self.build_into_wheel(native, build_data)
        except native.BuildError as error:
            if wish == "require":
                self.app.abort(f"{error.output}\nLABML_BCN_NATIVE is require: {error}")
            self.app.display_warning(f"{WITHOUT}: {error}")
            if version == "editable":  # what older sources were compiled to
                Path(self.root, FOLDER, native.NAME).unlink(missing_ok=True)

    def build_into_wheel(self, native: ModuleType, build_data: dict[str, Any]) -> None:
        """Compile outside of the checkout, whose library may be in use."""
        folder = self.temporary.enter_context(tempfile.TemporaryDirectory())
        library = native.build(Path(folder))
        build_data["force_include"][str(library)] = str(FOLDER / native.NAME)
        # It needs neither Python nor PyTorch, so it serves every version of them.
        platform = WheelBuilder(self.root).get_best_matching_tag().split("-")[-1]
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False

    def finalize(self, version: str, build_data: dict[str, Any], path: str) -> None:
        """Remove what was compiled outside of the checkout."""
        self.temporary.close()


def load_build_module(path: Path) -> ModuleType:
    """Load the build command from its file, as its package would import torch."""
    spec = importlib.util.spec_from_file_location("build_kernels", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
