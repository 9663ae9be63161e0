"""What is wrong in an author's file, and where."""

from pathlib import Path


class Problem(Exception):
    """Something in a file that its author must mend."""

    def __init__(self, path: Path | str, line: int, message: str) -> None:
        super().__init__(f"{path}:{line}: {message}")
        self.path, self.line, self.message = path, line, message

    def relative_to(self, root: Path) -> "Problem":
        """Return the same problem, with a path below `root` shown from there."""
        path = Path(self.path)
        if path.is_relative_to(root):
            path = path.relative_to(root)
        return Problem(path, self.line, self.message)
