"""What a layer is known by: what touches its key, and what must not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.builders.packages.layers.planning import PlannedLayer, plan_layers, wanted_layers
from pipeline.builders.packages.protocol import Package, Wanted
from pipeline.core.packages import PackageSystem

SYSTEM = PackageSystem(
    distribution="debian",
    release="bookworm",
    core=("tar",),
    base=("linux", "init"),
    packages=("jq",),
)


def package(name: str, version: str = "1") -> Package:
    return Package(name, version, "amd64", f"{name}-{version}", 1, f"{name}.deb", "main")


@dataclass
class Archive:
    """Resolves by name alone: a layer's packages are the words of it, each at its version."""

    versions: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def resolve(self, wanted: Wanted, parents: Sequence[Package]) -> tuple[Package, ...]:
        self.asked.append(tuple(p.name for p in parents))
        return tuple(
            package(name, self.versions.get(name, "1")) for name in sorted(wanted.packages)
        )


def layers(
    system: PackageSystem = SYSTEM,
    archive: Archive | None = None,
    signers: Mapping[str, Sequence[str]] | None = None,
    **set_in_it: object,
) -> tuple[PlannedLayer, ...]:
    resolve = (archive or Archive()).resolve
    return plan_layers(system, resolve, set_in_it=set_in_it, signers=signers or {}, code=())


def keys(found: Sequence[PlannedLayer]) -> list[str]:
    return [layer.key for layer in found]


def test_each_layer_is_resolved_on_its_parents() -> None:
    archive = Archive()
    found = layers(archive=archive)
    assert [layer.kind for layer in found] == ["core", "base", "image"]
    assert archive.asked == [(), ("tar",), ("tar", "init", "linux")]
    assert [layer.parent for layer in found] == ["", found[0].key, found[1].key]


def test_a_changed_package_list_keeps_core_and_base() -> None:
    before, after = layers(), layers(SYSTEM.model_copy(update={"packages": ("jq", "vim")}))
    assert keys(before)[:2] == keys(after)[:2]
    assert before[2].key != after[2].key


def test_an_update_changes_the_layers_it_touches_and_those_above() -> None:
    before, after = layers(), layers(archive=Archive({"linux": "2"}))
    assert before[0].key == after[0].key
    assert before[1].key != after[1].key
    assert before[2].key != after[2].key


def test_what_is_set_is_the_image_layers_alone() -> None:
    before, after = layers(users=["a"]), layers(users=["b"])
    assert keys(before)[:2] == keys(after)[:2]
    assert before[2].key != after[2].key


def test_packages_that_other_keys_signed_are_another_layer() -> None:
    """A layer's packages are checked when it is made: under the keys that counted then."""
    before = layers(signers={"main": ["A"], "other": ["X"]})
    assert keys(layers(signers={"main": ["A"], "other": ["Y"]})) == keys(before), "nothing of it"
    assert keys(layers(signers={"main": ["A"]})) == keys(before)
    assert not set(keys(layers(signers={"main": ["A", "B"]}))) & set(keys(before))


def test_architecture_release_and_weak_dependencies_count() -> None:
    changes: list[dict[str, object]] = [
        {"architecture": "aarch64"},
        {"release": "trixie"},
        {"weak_dependencies": True},
    ]
    known = {keys(layers())[0]}
    for change in changes:
        known.add(keys(layers(SYSTEM.model_copy(update=change)))[0])
    assert len(known) == 1 + len(changes)


def test_a_system_without_a_base_has_two_layers() -> None:
    kinds = [w.kind for w in wanted_layers(SYSTEM.model_copy(update={"base": ()}))]
    assert kinds == ["core", "image"]
