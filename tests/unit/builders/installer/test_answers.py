from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.builders.installer import preseed
from pipeline.builders.installer.answer_text import fill
from pipeline.builders.installer.answers import Answers, error_sections, render
from pipeline.builders.recipes import load_recipes
from pipeline.core import settings
from pipeline.core.environment import FromEnvironment
from pipeline.core.errors import InputError
from tests.fixtures.answer_files import END, HASH, NONCE, faults, recipe, rendered
from tests.fixtures.goldens import check_golden

SHIPPED = load_recipes(settings.recipes_file())


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_answers_are_golden(name: str) -> None:
    answers = render(SHIPPED[name], nonce=NONCE, overrides={})
    suffix = "preseed" if answers.dialect == "preseed" else "ks"
    check_golden(f"answers/{name}.{suffix}", answers.saved)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_saved_text_has_no_nonce(name: str) -> None:
    answers = render(SHIPPED[name], nonce=NONCE, overrides={})
    assert NONCE in answers.text
    assert NONCE not in answers.saved
    assert NONCE not in repr(answers)


def test_marks_get_their_values(tmp_path: Path) -> None:
    text = "timezone {{zone}}\n" + END
    answers = rendered(tmp_path, text, variables={"zone": "Etc/UTC"})
    assert "timezone Etc/UTC\n" in answers.text
    over = render(
        recipe(tmp_path, text, variables={"zone": "Etc/UTC"}),
        nonce=NONCE,
        overrides={"zone": "Europe/Paris"},
    )
    assert "timezone Europe/Paris\n" in over.text


def test_unknown_and_missing_variables_are_told_together(tmp_path: Path) -> None:
    box = recipe(
        tmp_path, "timezone {{zome}}\npoweroff\n", variables={"zone": "Etc/UTC", "spare": "x"}
    )
    with pytest.raises(InputError) as caught:
        render(box, nonce=NONCE, overrides={"sparr": "y"})
    text = str(caught.value)
    assert "{{zome}} has no value" in text
    assert "did you mean zone?" in text
    assert "spare is declared" in text
    assert "no variable sparr, did you mean spare?" in text


def test_a_value_cannot_add_a_line(tmp_path: Path) -> None:
    box = recipe(tmp_path, "timezone {{zone}}\npoweroff\n", variables={"zone": "Etc/UTC"})
    with pytest.raises(InputError, match="line break"):
        render(box, nonce=NONCE, overrides={"zone": "UTC\nrootpw x"})


def test_a_secret_comes_from_the_environment_and_is_not_saved(tmp_path: Path) -> None:
    box = recipe(
        tmp_path,
        "rootpw {{password}}\n" + END,
        variables={"password": FromEnvironment(environment="PW")},
    )
    answers = render(box, nonce=NONCE, overrides={}, environment={"PW": "s3cret-word"})
    assert "rootpw s3cret-word" in answers.text
    assert "s3cret-word" not in answers.saved + repr(answers)
    assert "rootpw (hidden)" in answers.saved
    assert answers.secrets == ("s3cret-word",)
    with pytest.raises(InputError, match=r"comes from \$PW, which is not set"):
        render(box, nonce=NONCE, overrides={}, environment={})
    with pytest.raises(InputError, match="it is a secret"):
        render(box, nonce=NONCE, overrides={"password": "x"}, environment={"PW": "s3cret-word"})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rootpw hunter2", "clear text"),
        ("rootpw --iscrypted hunter2", "no crypt"),
        ("user --name=ann --password=hunter2", "clear text"),
        ("bootloader --location=mbr --password=hunter2", "clear text"),
    ],
)
def test_passwords_in_clear_text_are_refused(line: str, said: str, tmp_path: Path) -> None:
    assert said in faults(tmp_path, f"{line}\npoweroff\n")


@pytest.mark.parametrize("line", [f"rootpw --iscrypted {HASH}", "rootpw --iscrypted --lock *"])
def test_hashes_and_locked_passwords_pass(line: str, tmp_path: Path) -> None:
    assert line in rendered(tmp_path, f"{line}\n{END}").text


@pytest.mark.parametrize("end", ["", "reboot\n", "halt\n"])
def test_it_must_power_off(end: str, tmp_path: Path) -> None:
    assert "poweroff" in faults(tmp_path, f"lang en_US\n{end}")


def test_pykickstart_checks_it_for_the_release_and_errors_are_collected(tmp_path: Path) -> None:
    text = "timezone --frobnicate UTC\nnonsense x\nrootpw --lock\npoweroff\n"
    said = faults(tmp_path, text)
    assert "--frobnicate" in said
    assert "nonsense" in said
    assert "rootpw" in said  # Fedora 15 wants a password there; Fedora 43 does not
    assert "rootpw --lock" in rendered(tmp_path, f"rootpw --lock\n{END}", release="F43").text


def test_an_unknown_release(tmp_path: Path) -> None:
    assert "did you mean RHEL9" in faults(tmp_path, "poweroff\n", release="RHEL09")


def test_an_unclosed_section(tmp_path: Path) -> None:
    assert "%end" in faults(tmp_path, "poweroff\n%post\necho\n")


def test_includes_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a").write_text("%include b\n")
    (tmp_path / "parts" / "b").write_text("timezone Etc/UTC\n")
    answers = rendered(tmp_path, f"%include parts/a  # zone\n{END}")
    assert f"timezone Etc/UTC\n{END}" in answers.saved
    assert "%include" not in answers.saved


def test_includes_the_guest_writes_are_left_to_it(tmp_path: Path) -> None:
    text = "%include /tmp/disks\npoweroff\n%pre\necho zerombr >/tmp/disks\n%end\n"
    assert "%include /tmp/disks" in rendered(tmp_path, text).text


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "/tmp/../etc/passwd", "http://host/x", "link"]
)
def test_includes_stay_in_the_directory(name: str, tmp_path: Path) -> None:
    place = tmp_path / "kickstart"
    place.mkdir()
    (tmp_path / "secret").write_text("rootpw --lock\n")
    (place / "link").symlink_to(tmp_path / "secret")
    assert "is outside" in faults(place, f"%include {name}\npoweroff\n")


def test_an_include_that_includes_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").write_text("%include loop\n")
    assert "includes itself" in faults(tmp_path, "%include loop\npoweroff\n")


def test_an_include_without_end_and_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"#" * (2 << 20))
    assert "text of at most" in faults(tmp_path, "%include big\npoweroff\n")
    assert "No such file" in faults(tmp_path, "%include none\npoweroff\n")


def test_the_nonce_is_printed_last_in_the_installed_system(tmp_path: Path) -> None:
    text = rendered(tmp_path, END + "%post\necho mine\n%end\n").text
    last = text.rindex("%post\n")
    assert f"{preseed.DONE} {NONCE}" in text[last:]
    assert "--nochroot" not in text[last:]
    assert text.index("echo mine") < last
    assert text.count(NONCE) == 3  # started, failed, done


@pytest.mark.parametrize(
    ("installer", "release", "sections"),
    [
        ("anaconda", "F15", ("%traceback",)),
        ("anaconda", "F26", ("%traceback",)),
        ("anaconda", "F27", ("%onerror", "%traceback")),
        ("anaconda", "RHEL7", ("%traceback",)),
        ("anaconda", "RHEL8", ("%onerror", "%traceback")),
        ("stand-in", "F43", ()),
    ],
)
def test_error_sections_by_release(installer: str, release: str, sections: tuple[str, ...]) -> None:
    assert error_sections(installer, release) == sections


@pytest.mark.parametrize("nonce", ["", "short", "has space in it, and more", "x" * 65])
def test_a_nonce_that_can_be_guessed_or_breaks_a_shell(nonce: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nonce"):
        render(recipe(tmp_path, "poweroff\n"), nonce=nonce, overrides={})


def test_a_tree_with_a_password_is_not_saved(tmp_path: Path) -> None:
    box = recipe(tmp_path, "url --url={{tree}}{{proxy_option}}\n" + END)
    secret = {
        "tree": "http://ann:hunter2@mirror/x",
        "proxy": "http://bob:hunter3@proxy:3128",
        "proxy_option": " --proxy=http://bob:hunter3@proxy:3128",
    }
    answers = render(box, nonce=NONCE, overrides={}, builtins=secret)
    assert "hunter2" in answers.text
    assert "hunter3" in answers.text
    assert "hunter" not in answers.saved


def test_a_tree_is_needed_where_its_mark_is(tmp_path: Path) -> None:
    assert "names no trees" in faults(tmp_path, "url --url={{tree}}\npoweroff\n")


PRESEED = "d-i debian-installer/exit/poweroff boolean true\n"


def preseeded(tmp_path: Path, text: str) -> Answers:
    return rendered(tmp_path, text, installer="debian-installer", release="")


def test_preseed_markers_surround_its_own_commands(tmp_path: Path) -> None:
    text = (
        "d-i preseed/early_command string echo early\n"
        "d-i preseed/late_command string in-target one; \\\n  in-target two\n" + PRESEED
    )
    found = {q.name: q.value for q in preseed.questions(preseeded(tmp_path, text).text)}
    assert found["preseed/early_command"] == (
        f"{{ echo; echo '{preseed.STARTED} {NONCE}'; }} >/dev/ttyS0; sh -c 'echo early'"
    )
    late = found["preseed/late_command"]
    assert late.startswith("sh -c 'in-target one; ")
    assert late.index("in-target two") < late.index("' && sync && { echo")
    assert late.index(preseed.DONE) < late.index(preseed.FAILED)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("d-i only", "owner, name and type"),
        ("d-i a/b strng x", "did you mean string"),
        ("d-i a/b boolean yes", "boolean"),
        ("d-i passwd/root-password password hunter2", "clear text"),
        ("d-i passwd/root-password-again password hunter2", "clear text"),
        ("d-i passwd/root-password-crypted password hunter2", "no crypt"),
        ("d-i preseed/include string http://x/y", "not kept"),
    ],
)
def test_preseed_faults(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        preseeded(tmp_path, f"{line}\n{PRESEED}")


def test_a_preseed_must_power_off(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="poweroff"):
        preseeded(tmp_path, "d-i debian-installer/exit/poweroff boolean false\n")


@given(st.text(alphabet=st.sampled_from("ab \\\n#/"), max_size=60))
def test_questions_cover_lines_in_order(text: str) -> None:
    found = preseed.questions(text)
    edges = [edge for q in found for edge in (q.first, q.last)]
    assert edges == sorted(edges)
    assert all(1 <= edge <= len(text.splitlines()) for edge in edges)


@given(st.text(alphabet="abcXYZ 0/.-_=", max_size=40))
def test_any_printable_value_arrives_unchanged(value: str) -> None:
    filled = fill("x {{a}} y", {"a": value})
    assert filled == f"x {value} y"


@pytest.mark.parametrize("text", ["{{ instance_id }}", "{{end}}", "{{boot_mib}}", "{{ tree }}"])
def test_braces_can_be_written(text: str, tmp_path: Path) -> None:
    script = f"{END}%post\necho '\\{text}'\n%end\n"
    assert f"echo '{text}'\n" in rendered(tmp_path, script).text
    said = faults(tmp_path, script.replace("\\", "").replace("tree", "three"))
    assert "a.ks line 4: the mark {{" in said
    assert f"for the braces themselves write \\{text.replace('tree', 'three')}" in said


@pytest.mark.parametrize("text", ["{{ .Name }}", "{{- end }}", "${{x}", "{ {x} }", "\\{{2}}"])
def test_other_braces_are_left_alone(text: str, tmp_path: Path) -> None:
    assert f"echo '{text}'\n" in rendered(tmp_path, f"{END}%post\necho '{text}'\n%end\n").text


def test_a_mistyped_mark_in_a_script_is_told(tmp_path: Path) -> None:
    text = f"timezone {{{{zone}}}}\n{END}%post\necho {{{{zome}}}}\n%end\n"
    said = faults(tmp_path, text, variables={"zone": "Etc/UTC"})
    assert "a.ks line 5: the mark {{zome}} has no value" in said
    assert "did you mean zone?" in said
