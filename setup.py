"""The packages of the wheel: pipeline, with templates/ and kickstart/ inside it."""

from pathlib import Path

from setuptools import find_packages, setup

DATA = ("templates", "kickstart")


def files(folder: str) -> list[str]:
    """All that lies below the folder, relative to it."""
    top = Path(__file__).parent / folder
    return [str(path.relative_to(top)) for path in sorted(top.rglob("*")) if path.is_file()]


setup(
    packages=[*find_packages(include=["pipeline*"]), *(f"pipeline.{name}" for name in DATA)],
    package_dir={f"pipeline.{name}": name for name in DATA},
    package_data={"pipeline": ["py.typed"]} | {f"pipeline.{name}": files(name) for name in DATA},
)
