"""Small files in CIFAR-10's binary format."""

from pathlib import Path

from labml_bcn.experiment import cifar10

FILES = (*cifar10.TRAIN_FILES, cifar10.TEST_FILE)


def make_record(label: int, value: int = 0) -> bytes:
    """A record whose image has one value, but for one pixel in the middle."""
    pixels = bytearray([value % 256]) * 3072
    pixels[1536] ^= 1
    return bytes([label]) + pixels


def make_files(records: int = 3) -> dict[str, bytes]:
    """Files whose images all differ, in a known order."""
    files = {
        name: b"".join(
            make_record((number + k) % 10, 10 * number + k) for k in range(records)
        )
        for number, name in enumerate(FILES)
    }
    names = "\n".join(cifar10.CLASSES) + "\n\n"
    return {**files, cifar10.NAMES_FILE: names.encode()}


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return root
