"""What a registry wants: from its versions and their tags alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.errors import BuildFailed, ConfigurationError, InvalidReference
from kbuild.model.find import RegisteredVersion
from kbuild.workflow.fleet.failed import ATTEMPTS, CLEARED, Failed, make_failed, read_failed
from kbuild.workflow.fleet.wanted import Rules, Wanted, add_named, find_wanted, is_wanted

PUSH = "registry.example/{name}:{version}"
DIGEST = "sha256:" + "a" * 64
RULES = Rules(push=PUSH)
NOW = 1_800_000_000.0


def version(name: str, number: int, *aliases: str, built: bool = False, **more: Any) -> RegisteredVersion:
    tags = dict(more.pop("tags", {}))
    if built:
        image = f"registry.example/{name.lower()}"
        tags |= {
            "kbuild.image_digest": DIGEST,
            "kbuild.pushed": f"{image}@{DIGEST}",
            "kbuild.named": f"{image}:{number}@{DIGEST}",
        }
    return RegisteredVersion(name=name, version=str(number), aliases=aliases, tags=tags, **more)


def builds(wanted: Wanted) -> list[str]:
    return [str(each).removeprefix("models:/") for each in wanted.builds]


def failed(again: float | None) -> dict[str, str]:
    return {key: str(value) for key, value in Failed(reason="r", attempts=2, again=again).tags().items()}


@pytest.mark.parametrize(
    ("now", "still"),
    [
        (version("churn", 1), True),
        (version("churn", 1, ready=False), False),
        (version("churn", 1, built=True), False),
        (version("churn", 1, tags={"kbuild.image_digest": DIGEST}), True),  # pushed by nobody under that name
        (version("churn", 1, tags=failed(NOW)), True),
        (version("churn", 1, tags=failed(NOW + 1)), False),
        (version("churn", 1, tags=failed(None)), False),
    ],
)
def test_what_waited_for_its_turn_is_built_where_it_still_is_to_be(now: RegisteredVersion, still: bool) -> None:
    assert is_wanted(now, RULES, now=NOW) is still
    # It is what asking for all would find.
    assert (find_wanted([now], RULES, now=NOW).builds == [now]) is still


def test_what_has_no_image_is_built_that_of_an_alias_first_then_the_oldest() -> None:
    versions = [
        version("churn", 1, created=30.0),
        version("churn", 2, built=True),
        version("churn", 3, "champion", created=40.0),
        version("fraud", 1, created=20.0),
        version("fraud", 2, ready=False),
        RegisteredVersion(name="unreadable", version=None),
    ]
    assert builds(find_wanted(versions, RULES, now=NOW)) == ["churn/3", "fraud/1", "churn/1"]
    only = Rules(push=PUSH, models=("fr*",))
    assert builds(find_wanted(versions, only, now=NOW)) == ["fraud/1"]
    assert builds(find_wanted(versions, Rules(push=PUSH, since=50.0), now=NOW)) == ["churn/3"], "an alias asks for it"
    numbers = [version("churn", number) for number in (10, 9)]
    assert builds(find_wanted(numbers, RULES, now=NOW)) == ["churn/9", "churn/10"]
    late = Rules(push=PUSH, since=35.0)
    assert builds(find_wanted(versions, late, now=NOW)) == ["churn/3"]


def test_an_image_counts_under_the_name_that_it_is_to_have() -> None:
    """Pushed elsewhere, or as another version of the same model, it is not there yet; without --push any will do."""
    elsewhere = version("churn", 1, built=True)
    moved = Rules(push="other.example/{name}:{version}")
    assert builds(find_wanted([elsewhere], moved, now=NOW)) == ["churn/1"]
    same_model = version("churn", 2, tags={"kbuild.pushed": f"registry.example/churn@{DIGEST}"})
    assert builds(find_wanted([same_model], RULES, now=NOW)) == ["churn/2"]
    assert builds(find_wanted([elsewhere], Rules(), now=NOW)) == []
    assert builds(find_wanted([same_model], Rules(), now=NOW)) == ["churn/2"]


def test_an_alias_names_the_image_of_its_version_once_that_is_built() -> None:
    versions = [version("Churn", 1, "champion", "old", built=True), version("Churn", 2, "challenger")]
    wanted = find_wanted(versions, Rules(push=PUSH, aliases=("ch*",)), now=NOW)
    assert [(each.alias, str(each.source), str(each.target)) for each in wanted.retags] == [
        ("champion", f"registry.example/churn@{DIGEST}", "registry.example/churn:champion")
    ]
    assert builds(wanted) == ["Churn/2"]
    assert find_wanted(versions, Rules(), now=NOW).retags == [], "there is no registry to tag in"


def test_what_was_pushed_by_hand_moves_no_alias() -> None:
    """``kbuild image --push`` tells where its image went; the aliases' images are those that a watch pushed."""
    other = "sha256:" + "c" * 64
    for pushed in (f"registry.example/churn@{other}", f"elsewhere.example/m@{other}"):
        one = version("churn", 1, "champion", built=True)
        one.tags["kbuild.pushed"] = pushed  # type: ignore[index]
        wanted = find_wanted([one], RULES, now=NOW)
        assert builds(wanted) == []
        assert [str(each.source) for each in wanted.retags] == [f"registry.example/churn@{DIGEST}"]


@pytest.mark.parametrize("told", ["registry.example/churn:1", "registry.example/churn:1@sha256:no", "x", "@"])
def test_a_name_without_its_image_is_not_built(told: str) -> None:
    tags = {"kbuild.pushed": f"registry.example/churn@{DIGEST}", "kbuild.named": told}
    assert builds(find_wanted([version("churn", 1, tags=tags)], RULES, now=NOW)) == ["churn/1"]


def test_names_of_others_stay_as_long_as_there_is_room() -> None:
    told = add_named(None, "a.example/churn:1", DIGEST)
    both = add_named(told, "b.example/churn:1", DIGEST)
    other = DIGEST.replace("a", "c")
    assert both.split() == [f"b.example/churn:1@{DIGEST}", f"a.example/churn:1@{DIGEST}"]
    assert add_named(both, "a.example/churn:1", other).split() == [
        f"a.example/churn:1@{other}", f"b.example/churn:1@{DIGEST}"
    ]  # fmt: skip
    for number in range(100):
        both = add_named(both, f"r{number}.example/churn:1", DIGEST)
    assert len(both) <= 5000 and both.startswith("r99.example/churn:1@")


def test_two_models_never_get_one_name() -> None:
    versions = [version("churn", 1), version("Churn", 1), version("churn", 2, "1", built=True)]
    wanted = find_wanted(versions, RULES, now=NOW)
    assert builds(wanted) == ["churn/1"]
    assert [str(each) for each, _ in wanted.refused] == ["models:/Churn/1"]
    assert "is what the image of models:/churn/1 is called" in str(wanted.refused[0][1].message)
    assert [(str(each), alias) for each, alias, _ in wanted.unnamed] == [("models:/churn/2", "1")]
    assert wanted.retags == []


def test_a_failure_is_tried_again_later_each_time_and_not_for_ever() -> None:
    error = BuildFailed("no room", hint="make some")
    failed, waits = None, []
    for _ in range(ATTEMPTS):
        failed = make_failed(error, failed, now=NOW)
        waits.append(None if failed.again is None else failed.again - NOW)
    assert waits == [60, 240, 960, 3840, None]
    for number, waited in ((1, 60.0), (ATTEMPTS, None)):
        failed = make_failed(error, Failed(reason="", attempts=number - 1, again=0.0), now=NOW)
        tags = {key: str(value) for key, value in failed.tags().items()}
        assert read_failed(tags) == failed
        one = [version("churn", 1, tags=tags)]
        early = find_wanted(one, RULES, now=NOW)
        assert (builds(early), early.again) == ([], None if waited is None else NOW + waited)
        assert builds(find_wanted(one, RULES, now=NOW + 60)) == (["churn/1"] if waited else [])
        assert builds(find_wanted([version("churn", 1)], RULES, now=NOW)) == ["churn/1"], "with the tags taken away"


@pytest.mark.parametrize(
    ("whens", "again"),
    [
        # Of what is to be built, and of what cannot be named: the first, as far as it is not due.
        ((NOW + 60, NOW + 240), NOW + 60),
        ((NOW + 240, NOW + 60), NOW + 60),
        ((None, NOW + 60), NOW + 60),
        ((NOW + 60, None), NOW + 60),
        ((NOW, NOW + 240), NOW + 240),
        ((NOW + 240, NOW), NOW + 240),
        ((None, None), None),
        ((NOW, NOW), None),
    ],
)
def test_whatever_failed_it_is_told_when_the_first_is_tried_again(
    whens: tuple[float | None, float | None], again: float | None
) -> None:
    built, nameless = whens
    versions = [
        version("till", 1, built=True),
        version("Till", 1, tags=failed(nameless)),  # whose image would have the same name
        version("fraud", 1, tags=failed(built)),
    ]
    wanted = find_wanted(versions, RULES, now=NOW)
    assert wanted.again == again
    assert builds(wanted) == (["fraud/1"] if built == NOW else [])
    assert [each.name for each, _ in wanted.refused] == (["Till"] if nameless == NOW else [])


def test_what_has_its_image_and_lacks_an_alias_is_not_mended() -> None:
    """Its tag says why, as long as that is so."""
    odd = version("churn", 1, "not a tag", built=True, tags={"kbuild.error": "it cannot be named"})
    well = version("churn", 2, built=True, tags={"kbuild.error": "no room"})
    wanted = find_wanted([odd, well], RULES, now=NOW)
    assert [str(each) for each in wanted.mended] == ["models:/churn/2"]


def test_what_was_mended_no_longer_says_that_it_failed() -> None:
    told = {"kbuild.error": "champion: no answer"}
    wanted = find_wanted([version("churn", 1, "champion", built=True, tags=told)], RULES, now=NOW)
    assert [str(each) for each in wanted.mended] == ["models:/churn/1"]
    assert set(CLEARED) == {"kbuild.error", "kbuild.attempts", "kbuild.retry"}


@pytest.mark.parametrize("tags", [{"kbuild.attempts": "x", "kbuild.retry": "soon"}, {"kbuild.retry": ""}])
def test_what_others_wrote_into_the_tags_is_tried_at_once(tags: dict[str, str]) -> None:
    one = [version("churn", 1, tags={"kbuild.error": "by hand", **tags})]
    assert builds(find_wanted(one, RULES, now=NOW)) == ["churn/1"]


@pytest.mark.parametrize("mark", ["{name}", "x:{version}", "{name}:{run_id}", "{name}:{version}-{model_id}"])
def test_names_that_versions_would_share_are_refused_before_anything_is_asked(mark: str) -> None:
    with pytest.raises(ConfigurationError, match="does not tell registered versions apart"):
        Rules(push=f"registry.example/{mark}").check()
    with pytest.raises(ConfigurationError, match="tags of a registry"):
        Rules(aliases=("champion",)).check()
    with pytest.raises(InvalidReference):
        Rules(push="Not/{name}/{version} ok").check()
    RULES.check()


NAMES = st.sampled_from(["churn", "Churn", "CHURN!", "fraud", "x"])


ALIASES = st.lists(st.sampled_from(["champion", "1", "2", "a"]), unique=True)


@given(st.lists(st.tuples(NAMES, st.integers(1, 5), ALIASES, st.booleans()), max_size=12))
def test_whatever_is_registered_no_name_is_given_twice(rows: list[tuple[str, int, list[str], bool]]) -> None:
    unique = {(name, number): (aliases, built) for name, number, aliases, built in rows}
    versions = [version(name, number, *aliases, built=built) for (name, number), (aliases, built) in unique.items()]
    wanted = find_wanted(versions, RULES, now=NOW)
    named = {f"registry.example/{each.name.lower().strip('!')}:{each.version}": each for each in wanted.builds}
    assert len(named) == len(wanted.builds)
    targets: dict[str, RegisteredVersion] = {}
    for each in wanted.retags:
        assert targets.setdefault(str(each.target), each.version) == each.version
        assert named.get(str(each.target), each.version) == each.version
    assert {str(each) for each in wanted.builds}.isdisjoint(str(each) for each, _ in wanted.refused)


def test_who_pushes_nothing_has_no_aliases_to_follow() -> None:
    Rules().check()
    assert Rules().followed(version("churn", 1, "champion")) == []
    with pytest.raises(ConfigurationError, match="--alias names tags of a registry") as caught:
        Rules(aliases=("champion",)).check()
    assert "--push registry.example/{name}:{version}" in str(caught.value.hint)
