from pathlib import Path

import pytest

from pipeline.builders.recipes import choose_recipe, load_recipes
from pipeline.core import settings
from pipeline.core.environment import FromEnvironment
from pipeline.core.errors import InputError
from pipeline.core.recipe import Recipe
from pipeline.core.resources import PROJECT


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "a.ks").write_text("poweroff\n")
    path = tmp_path / "recipes.toml"
    path.write_text(text)
    return path


MINIMAL = '[box]\ndescription = "d"\nanswers = "a.ks"\nrelease = "F15"\n'


def test_a_minimal_recipe(tmp_path: Path) -> None:
    recipe = load_recipes(write(tmp_path, MINIMAL))["box"]
    assert recipe.name == "box"
    assert recipe.answers == tmp_path / "a.ks"
    assert recipe.installer == "anaconda"


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[one]\ndescription = "d"\nanswers = "a.ks"\nmemory_mb = 3\n'
        '[two]\ndescription = 7\nanswers = "none.ks"\n'
        '[three]\ndescription = "d"\nanswers = "none.ks"\n',
    )
    with pytest.raises(InputError) as caught:
        load_recipes(path)
    text = str(caught.value)
    assert "one.memory_mb: unknown field, did you mean memory_mib?" in text
    assert "two.description" in text
    assert "three.answers: there is no file" in text


@pytest.mark.parametrize(
    "line",
    [
        "disk_gib = 0",
        'disk_gib = "8"',
        "quiet_minutes = 0",
        'installer = "yast"',
        'user = "root; rm"',
        'answers_by = "floppy"',
        'cpu = "fast"',
        'variables = { a = { environment = "lower" } }',
        "variables = { a = 1 }",
    ],
)
def test_wrong_values_are_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_recipes(write(tmp_path, MINIMAL + line + "\n"))


def test_a_secret_variable(tmp_path: Path) -> None:
    text = MINIMAL + '[box.variables]\npassword = { environment = "PW" }\n'
    recipe = load_recipes(write(tmp_path, text))["box"]
    assert recipe.variables["password"] == FromEnvironment(environment="PW")


@pytest.mark.parametrize("text", ["x", "[a]\n[a]\n", "a = 1\n"])
def test_no_table_of_recipes(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_recipes(write(tmp_path, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_recipes(tmp_path / "recipes.toml")


def test_the_nearest_name_is_offered() -> None:
    recipes = load_recipes(settings.recipes_file())
    assert choose_recipe(recipes, "fedora15").release == "F15"
    with pytest.raises(InputError, match="did you mean fedora15"):
        choose_recipe(recipes, "fedora51")


def test_every_field_is_documented() -> None:
    text = (PROJECT / "docs" / "reference" / "recipes.md").read_text()
    table = text[text.index("## Fields") : text.index("## Variables")]
    assert [name for name in Recipe.model_fields if f"`{name}`" not in table] == []


def test_every_shipped_recipe_is_documented() -> None:
    text = (PROJECT / "docs" / "reference" / "recipes.md").read_text()
    assert [n for n in load_recipes(settings.recipes_file()) if f"`{n}`" not in text] == []
