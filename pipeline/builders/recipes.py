"""Loads and checks the recipes of kickstart/recipes.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.core.errors import InputError
from pipeline.core.recipe import Recipe
from pipeline.core.resources import COMMAND
from pipeline.core.text import did_you_mean


def load_recipes(path: Path) -> dict[str, Recipe]:
    """All recipes of a file by name. InputError lists every fault of the file at once."""
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            "read the recipes of",
            path,
            why="there is no such file",
            next_step="Run from a checkout, or set IMAGE_PIPELINE_RECIPES",
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            "read the recipes of",
            path,
            why=str(error),
            next_step="Correct the file; docs/reference/recipes.md explains its fields",
        ) from error
    recipes: dict[str, Recipe] = {}
    faults: list[str] = []
    for name, table in tables.items():
        if not isinstance(table, dict):
            faults.append(f"{name}: every top-level entry must be a table, one a recipe")
            continue
        try:
            # TOML has arrays and strings where the model has tuples and paths: lax for those only.
            recipe = Recipe.model_validate(_typed(table) | {"name": name})
        except ValidationError as error:
            faults += _faults(name, error)
            continue
        answers = path.parent / recipe.answers
        if not answers.is_file():
            faults.append(f"{name}.answers: there is no file {answers}")
        recipes[name] = recipe.model_copy(update={"answers": answers})
    if faults:
        raise InputError(
            "use the recipes of",
            path,
            why=f"{len(faults)} fault{'s' if len(faults) > 1 else ''}: " + "; ".join(faults),
            next_step="The fields are described in docs/reference/recipes.md",
        )
    return recipes


def choose_recipe(recipes: dict[str, Recipe], name: str) -> Recipe:
    """The recipe of that name; InputError with the nearest names otherwise."""
    if name in recipes:
        return recipes[name]
    raise InputError(
        "find the recipe",
        name,
        why=f"there is none of that name{did_you_mean(name, recipes)}",
        next_step=f"`{COMMAND} recipes` lists them",
    )


def _typed(table: dict[str, Any]) -> dict[str, Any]:
    """TOML's arrays and strings as the model's tuples and paths; all else is left to be checked."""
    typed = dict(table)
    if isinstance(typed.get("trees"), list):
        typed["trees"] = tuple(typed["trees"])
    if isinstance(typed.get("answers"), str):
        typed["answers"] = Path(typed["answers"])
    return typed


def _faults(name: str, error: ValidationError) -> list[str]:
    faults = []
    for fault in error.errors():
        place = ".".join(str(part) for part in (name, *fault["loc"]))
        if fault["type"] == "extra_forbidden":
            word = str(fault["loc"][0])
            faults.append(f"{place}: unknown field{did_you_mean(word, Recipe.model_fields)}")
        else:
            faults.append(f"{place}: {fault['msg']}")
    return faults
