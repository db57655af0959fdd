"""Loads and checks the recipes of kickstart/recipes.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.core.errors import InputError
from pipeline.core.packages import PackageSystem
from pipeline.core.recipe import Recipe
from pipeline.core.resources import COMMAND
from pipeline.core.text import did_you_mean

_OF_PACKAGES = frozenset(PackageSystem.model_fields) - {"architecture"}


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
            recipe = Recipe.model_validate(_typed(_sorted_out(table)) | {"name": name})
        except ValidationError as error:
            faults += _faults(name, error)
            continue
        found, missing = _located(recipe, path.parent)
        recipes[name] = found
        faults += missing
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


def _sorted_out(table: dict[str, Any]) -> dict[str, Any]:
    """The table with a package system's own fields below `system`, where the model has them."""
    if table.get("source") != "packages" or "system" in table:
        return table
    own = {name: value for name, value in table.items() if name in _OF_PACKAGES}
    rest = {name: value for name, value in table.items() if name not in own}
    if "architecture" in rest:
        own["architecture"] = rest["architecture"]
    # A kickstart is read by its own syntax's name, an image's packages come from its release.
    if "kickstart" in rest:
        rest["answers"] = rest.pop("kickstart")
    if "syntax" in rest:
        rest["release"] = rest.pop("syntax")
    return rest | {"system": own}


def _typed(table: dict[str, Any]) -> dict[str, Any]:
    """TOML's arrays and strings as the model's tuples and paths; all else is left to be checked."""
    typed = dict(table)
    for name in ("trees", "outputs"):
        if isinstance(typed.get(name), list):
            typed[name] = tuple(typed[name])
    if isinstance(typed.get("answers"), str):
        typed["answers"] = Path(typed["answers"])
    return typed


def _located(recipe: Recipe, folder: Path) -> tuple[Recipe, list[str]]:
    """The recipe with the paths of its files as they are on this host, and what is not there."""
    missing = []
    if recipe.answers != Path():
        answers = folder / recipe.answers
        recipe = recipe.model_copy(update={"answers": answers})
        if not answers.is_file():
            field = "answers" if recipe.system is None else "kickstart"
            missing = [f"{recipe.name}.{field}: there is no file {answers}"]
    if recipe.system is None:
        return recipe, missing
    system, more = _located_system(recipe.name, recipe.system, folder)
    return recipe.model_copy(update={"system": system}), [*missing, *more]


def _located_system(
    name: str, system: PackageSystem, folder: Path
) -> tuple[PackageSystem, list[str]]:
    """The same for what is made of packages: keys, scripts and files to put in."""
    repositories = tuple(
        each.model_copy(update={"keys": tuple(folder / key for key in each.keys)})
        for each in system.repositories
    )
    files = tuple(
        each.model_copy(update={"source": folder / each.source}) if each.source else each
        for each in system.files
    )
    scripts = tuple(folder / script for script in system.scripts)
    # Keys are looked for when the repositories are used: a recipe for another host may ship too.
    missing = [
        f"{name}.{field}: there is no file {path}"
        for field, paths in (
            ("scripts", scripts),
            ("files", tuple(each.source for each in files if each.source)),
        )
        for path in paths
        if not path.is_file()
    ]
    given = {"repositories": repositories, "files": files, "scripts": scripts}
    # Fields that the recipe does not name must stay unnamed: they have defaults of their own.
    update = {field: found for field, found in given.items() if field in system.model_fields_set}
    return system.model_copy(update=update), missing


def _faults(name: str, error: ValidationError) -> list[str]:
    faults = []
    for fault in error.errors():
        # A package system's fields stand in the recipe's own table.
        inner = tuple(part for part in fault["loc"] if part != "system")
        place = ".".join(str(part) for part in (name, *inner))
        if fault["type"] == "extra_forbidden":
            known = set(Recipe.model_fields) | _OF_PACKAGES if len(inner) == 1 else set()
            faults.append(f"{place}: unknown field{did_you_mean(str(inner[-1]), known)}")
        else:
            faults.append(f"{place}: {fault['msg']}")
    return faults
