"""Splits: exact in number, stratified, whole in their groups, and true to the set they were made for."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_scale.finetune import split as splits
from fer_scale.finetune.drawing import LISTS, SplitError, contradictory, draw
from fer_scale.finetune.people import joined
from shards.expressions import EXPRESSIONS, FERPLUS_COLUMNS
from shards.index import ShardSet
from shards.pack import pack

NAMES = ("neutral", "happiness", "surprise", "fear")


def alone(count: int) -> np.ndarray:
    """Groups of one."""
    return np.arange(count)


def sizes(labeled: str, test: str | None = None, valid: str | None = None) -> dict[str, str | None]:
    return {"labeled": labeled, "test": test, "valid": valid}


def test_each_list_has_exactly_its_size_and_each_sample_one_list() -> None:
    expressions = [NAMES[i % 3] for i in range(1000)]
    lists = draw(expressions, alone(1000), set(), sizes("57", test="25%", valid="10%"), 0)
    assert [len(lists[name]) for name in LISTS] == [57, 618, 75, 250, 0]
    assert sorted(n for chosen in lists.values() for n in chosen) == list(range(1000))


def test_a_share_of_the_labels_is_a_share_of_those_left_by_test_and_valid() -> None:
    lists = draw([NAMES[i % 2] for i in range(1000)], alone(1000), set(), sizes("5%", test="20%", valid="50"), 0)
    assert len(lists["labeled"]) == round(0.05 * (1000 - 200 - 50))


def test_lists_are_stratified_and_hold_at_least_one_of_each_expression() -> None:
    expressions = ["neutral"] * 900 + ["happiness"] * 95 + ["fear"] * 5
    lists = draw(expressions, alone(1000), set(), sizes("20", test="20%"), 3)
    for name, wanted in (("labeled", [18, 1, 1]), ("test", [180, 19, 1])):
        counts = splits.class_counts([expressions[i] for i in lists[name]])
        assert list(counts.values()) == wanted


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_group_is_torn_and_every_list_has_every_expression(data: st.DataObject) -> None:
    count = data.draw(st.integers(60, 200))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    expressions: list[str | None] = [NAMES[i % 3] for i in range(count)]
    groups = rng.integers(0, count // 2, count)
    for group in range(0, count // 2, 7):  # some faces of some groups carry no expression
        for number in np.flatnonzero(groups == group)[1:]:
            expressions[number] = None
    try:
        lists = draw(expressions, groups, set(), sizes("15", test="30%", valid="12"), 1)
    except SplitError as error:
        assert "need" in str(error) or "left" in str(error)
        return
    home = {}
    for name in ("labeled", "valid", "test", "unlabeled"):
        for number in lists[name]:
            assert home.setdefault(groups[number], name) == name
        if name != "unlabeled":
            assert all(expressions[n] is not None for n in lists[name])
            assert len(lists[name]) > 0
    assert len(lists["labeled"]) <= 15 + 4
    assert sorted(n for chosen in lists.values() for n in chosen) == list(range(count))


def test_the_same_seed_draws_the_same_and_another_one_another() -> None:
    expressions = [NAMES[i % 3] for i in range(300)]
    first, again, other = (draw(expressions, alone(300), set(), sizes("30", test="25%"), s) for s in (0, 0, 1))
    assert first == again
    assert first["labeled"] != other["labeled"] and first["test"] != other["test"]


def test_the_draw_is_frozen() -> None:
    """A split file names its rule, so the rule must not change under it."""
    lists = draw([NAMES[i % 3] for i in range(60)], alone(60), set(), sizes("6", test="9"), 0)
    assert lists["labeled"] == [6, 13, 21, 23, 28, 32]
    assert lists["test"] == [0, 2, 10, 11, 22, 27, 51, 52, 56]
    rng = np.random.default_rng(7)
    many = [NAMES[i] for i in rng.choice(4, 400, p=[0.5, 0.3, 0.15, 0.05])]
    lists = draw(many, rng.integers(0, 250, 400), {3, 8}, sizes("40", test="25%", valid="15%"), 11)
    said = hashlib.sha256(json.dumps(lists).encode()).hexdigest()
    assert said == "ea3a86a24177d081f8f3cee4c3350d7bde8181bd85462eb2d86a8333df2345b8"


def test_labels_may_be_a_count_of_each_expression_that_no_other_makes_up_for() -> None:
    expressions = ["neutral"] * 60 + ["happiness"] * 30 + ["fear"] * 10
    lists = draw(expressions, alone(100), set(), sizes("4/class", test="20%"), 0)
    assert splits.class_counts([expressions[i] for i in lists["labeled"]]) == dict.fromkeys(
        ("neutral", "happiness", "fear"), 4
    )
    assert lists["test"] == draw(expressions, alone(100), set(), sizes("9", test="20%"), 0)["test"]
    pairs = np.arange(100) // 2 * 2  # groups of two: 5 of each expression cannot be had, 4 can
    lists = draw(expressions, pairs, set(), sizes("5/class"), 0)
    assert set(splits.class_counts([expressions[i] for i in lists["labeled"]]).values()) == {4}


def test_a_count_of_each_expression_leaves_groups_of_several_expressions_alone() -> None:
    expressions = ["neutral", "neutral", "fear", *["neutral", "fear"] * 5]
    groups = np.array([0, 0, 0, *range(3, 13)])
    lists = draw(expressions, groups, set(), sizes("5/class"), 0)
    assert lists["labeled"] == list(range(3, 13)) and lists["unlabeled"] == [0, 1, 2]


def test_labels_are_drawn_anew_for_the_same_test_faces(labeled_set: Path, split_file: Path, tmp_path: Path) -> None:
    wish = {"labels": "24", "valid": "12", "test": "25%"}
    first = json.loads(split_file.read_text())
    other = splits.split(labeled_set, **wish, seed=1, test_seed=0, out=tmp_path / "1.json")
    assert other["test"] == first["test"] and other["labeled"] != first["labeled"] and other["test_seed"] == 0
    same = splits.split(labeled_set, **wish, seed=0, test_seed=0, out=tmp_path / "0.json")
    assert same == first  # what today's options draw is the same file, to the byte
    assert (tmp_path / "0.json").read_bytes() == split_file.read_bytes()


def test_the_test_faces_of_another_split_are_taken_as_they_are(
    labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    frozen = f"{split_file}#test"
    first = json.loads(split_file.read_text())
    same = splits.split(labeled_set, labels="24", valid="12", test=frozen, seed=0, out=tmp_path / "same.json")
    assert {name: same[name] for name in LISTS} == {name: first[name] for name in LISTS}
    assert same["sizes"]["test"] == f"{first['sha256']}#test"  # and not where the file lies
    assert "test is a list of the split with this sha256" in same["rule"]
    each = splits.split(labeled_set, labels="4/class", test=frozen, seed=5, out=tmp_path / "each.json")
    assert each["test"] == first["test"] and each["labels"] == 12 and "N of each expression" in each["rule"]
    with pytest.raises(SplitError, match=r"lists that are not empty: labeled, unlabeled, valid, test"):
        splits.split(labeled_set, labels="24", test=f"{split_file}#tests", seed=0, out=tmp_path / "no.json")
    with pytest.raises(SplitError, match="--test-seed: draws the list test"):
        splits.split(labeled_set, labels="24", test=frozen, test_seed=1, seed=0, out=tmp_path / "no.json")


def test_a_group_with_exact_copies_under_different_expressions_is_excluded_whole() -> None:
    expressions = ["neutral", "fear", "neutral", "neutral", "fear", None]
    groups = np.array([0, 0, 0, 3, 4, 4])
    copies = np.array([0, 0, 1, 2, 3, 3])  # 0 and 1 are one picture, 2 is like them; 4 and 5 are one, 5 without a word
    assert contradictory(expressions, groups, copies) == {0}
    many = [*expressions, *[NAMES[i % 2] for i in range(20)]]
    lists = draw(many, np.concatenate([groups, np.arange(6, 26)]), {0}, sizes("4"), 0)
    assert set(lists["excluded"]) >= {0, 1, 2}


def test_near_copies_keep_their_own_labels_and_go_with_the_expression_most_have() -> None:
    expressions = ["neutral", "neutral", "fear", *["neutral", "fear"] * 10]
    groups = np.array([0, 0, 0, *range(3, 23)])
    lists = draw(expressions, groups, set(), sizes("22"), 0)
    assert {0, 1, 2} <= set(lists["labeled"]) or not {0, 1, 2} & set(lists["labeled"])
    assert contradictory(expressions, groups, np.arange(23)) == set()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (sizes("0.05"), "--labels 0.05: write a count, as 1419, or a share, as 5%"),
        (sizes("200"), "--labels 200: is 200 of 100 labeled faces that are left"),
        (sizes("2"), "--labels: 2 is fewer than the 4 expressions"),
        (sizes("0%"), "is 0 of 100"),
        (sizes("10", test="many"), "--test many: write a count"),
        (sizes("26/class"), "--labels 26/class: 25 of neutral are left"),
        (sizes("0/class"), "--labels 0/class: 25 of neutral are left"),
    ],
)
def test_a_size_that_cannot_be_is_an_error_that_names_the_flag(wish: dict[str, str | None], message: str) -> None:
    with pytest.raises(SplitError, match=message.replace("(", r"\(")):
        draw([NAMES[i % 4] for i in range(100)], alone(100), set(), wish, 0)


def test_an_expression_with_too_few_faces_for_the_lists_is_named() -> None:
    expressions = ["neutral"] * 50 + ["fear"]
    with pytest.raises(SplitError, match=r"--test: 1 group.* left with fear, but 2 list.* need one each"):
        draw(expressions, alone(51), set(), sizes("10", test="10"), 0)


def test_a_set_without_expressions_has_nothing_to_split(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="no face of this set carries an expression"):
        splits.split(faces, labels="5", seed=0, out=tmp_path / "s.json")


def test_copies_in_a_real_set_stay_together(pictures: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice"
    lines = []
    for line in (pictures / "labels.jsonl").read_text().splitlines():
        said = json.loads(line)
        for copy in ("a", "b"):
            path = f"{copy}/{said['path'].replace('/', '_')}"
            (twice / path).parent.mkdir(parents=True, exist_ok=True)
            (twice / path).write_bytes((pictures / said["path"]).read_bytes())
            lines.append(json.dumps(said | {"path": path}))
    (twice / "labels.jsonl").write_text("\n".join(lines))
    packed = pack(twice, tmp_path / "set", source="folder", workers=1)
    content = splits.split(tmp_path / "set", labels="30", seed=0, test="25%", out=tmp_path / "s.json")
    keys = [key for shard in range(len(packed.counts)) for key in packed.keys(shard)]
    pixels = dict(zip(keys, map(bytes, packed.hashes()[0]), strict=True))
    homes: dict[bytes, set[str]] = {}
    for name in LISTS:
        for key in content[name]:
            homes.setdefault(pixels[key], set()).add(name)
    assert len(homes) == 120 and all(len(home) == 1 for home in homes.values())


def test_a_split_reads_back_and_says_what_it_is(labeled_set: Path, split_file: Path) -> None:
    found = splits.read(split_file, ShardSet.open(labeled_set))
    assert [len(found.lists[n]) for n in LISTS] == [24, 54, 12, 30, 0]
    assert found.facts["class_counts"]["labeled"] == {"neutral": 8, "happiness": 8, "surprise": 8}
    assert found.facts["group_rule"] and found.facts["rule"] and found.facts["seed"] == 0


def test_a_split_for_another_set_is_refused(faces: Path, split_file: Path) -> None:
    with pytest.raises(SplitError, match="was made for the set 'blobs'"):
        splits.read(split_file, ShardSet.open(faces))


def test_a_split_that_was_edited_is_refused(labeled_set: Path, split_file: Path, tmp_path: Path) -> None:
    content = json.loads(split_file.read_text())
    content["labeled"].append(content["test"].pop())
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(SplitError, match="was changed after it was written"):
        splits.read(tmp_path / "s.json", ShardSet.open(labeled_set))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 7}', "\x00\xff"])
def test_a_file_that_is_no_split_is_refused(labeled_set: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SplitError, match=r"make one with `fer-scale split`"):
        splits.read(tmp_path / "s.json", ShardSet.open(labeled_set))


def test_the_official_test_faces_are_known_by_where_they_came_from(tmp_path: Path) -> None:
    """FERPlus by argmax: PublicTest and PrivateTest, as far as they were packed; no copy of them is learned from."""
    lines = ["Usage,Image name," + ",".join(FERPLUS_COLUMNS)]
    rng = np.random.default_rng(0)
    for folder, usage, each in (("Train", "Training", 3), ("Valid", "PublicTest", 1), ("Test", "PrivateTest", 1)):
        (tmp_path / "src" / f"FER2013{folder}").mkdir(parents=True)
        for number in range(8 * each):
            name = f"fer{number:07d}.png"
            pixels = rng.integers(0, 256, (48, 48), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "src" / f"FER2013{folder}" / name)
            lines.append(f"{usage},{name}," + ",".join("10" if c == number % 8 else "0" for c in range(10)))
    copy = (tmp_path / "src/FER2013Valid/fer0000000.png").read_bytes()
    (tmp_path / "src/FER2013Train/fer0000000.png").write_bytes(copy)
    (tmp_path / "src/fer2013new.csv").write_text("\n".join(lines) + "\n")
    pack(tmp_path / "src", tmp_path / "set", source="ferplus", workers=1)
    content = splits.split(tmp_path / "set", labels="1/class", test="official", seed=0, out=tmp_path / "split.json")
    assert content["class_counts"]["test"] == dict.fromkeys(EXPRESSIONS, 2) and "official" in content["rule"]
    assert content["class_counts"]["excluded"] == {"neutral": 1} and content["labels"] == 8


def test_the_official_test_faces_of_affectnets_full_release_are_those_of_its_validation_csv(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, each in (("training", 3), ("validation", 1)):
        rows = []
        for number in range(8 * each):
            path = tmp_path / f"src/Manually_Annotated_Images/1/{name}{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(path)
            rows.append(f"1/{path.name},0,0,48,48,1.5;2.5,{number % 8},0.1,-0.2\n")
        (tmp_path / f"src/{name}.csv").write_text("".join(rows))
    pack(tmp_path / "src", tmp_path / "set", source="affectnet", workers=1, licence="research")
    content = splits.split(tmp_path / "set", labels="1/class", test="official", seed=0, out=tmp_path / "split.json")
    assert content["class_counts"]["test"] == dict.fromkeys(EXPRESSIONS, 1) and content["labels"] == 8
    pack(tmp_path / "src", tmp_path / "part", source="affectnet", workers=1, licence="research", split="train")
    with pytest.raises(SplitError, match=r"holds none of the test faces of AffectNet-8, .* pack it again, all parts"):
        splits.split(tmp_path / "part", labels="1/class", test="official", seed=0, out=tmp_path / "split.json")


def test_a_set_without_known_test_faces_says_whose_are_known(labeled_set: Path, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"no official test faces are known of .*, but of RAF-DB basic, FER"):
        splits.split(labeled_set, labels="12", test="official", seed=0, out=tmp_path / "split.json")


@pytest.mark.slow
def test_real_faces_split_as_measured(ferplus_set: Path, tmp_path: Path) -> None:
    """5 % of the three quarters of FERPlus that the test leaves is 1,064 labels, of which 6 are contempt."""
    content = splits.split(ferplus_set, labels="5%", seed=0, test="25%", out=tmp_path / "split.json")
    assert content["labels"] == 1064 and len(content["test"]) == 7096
    assert content["class_counts"]["labeled"]["contempt"] == 6 and content["class_counts"]["labeled"]["disgust"] == 7


# ---------------------------------------------------------------------------------------------------- persons


@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_nobody_in_test_or_valid_is_in_another_list(seed: int, torn: int) -> None:
    """Also whose faces carry no label, and who shares a copy with somebody; contradictory groups stay out."""
    rng = np.random.default_rng(seed)
    shows = [f"S{i:03d}" for i in rng.integers(0, 40, 300)]
    expressions: list[str | None] = [NAMES[i] for i in rng.integers(0, 4, 300)]
    expressions[::7] = [None] * len(expressions[::7])
    groups, excluded = alone(300), set(range(torn))
    groups[100:104] = 100  # copies, of several persons
    whole = joined(groups, shows, excluded)
    lists = draw(expressions, groups, excluded, sizes("20", test="25%", valid="15%"), seed, people=whole)
    assert sorted(n for chosen in lists.values() for n in chosen) == list(range(300))
    home: dict[str, set[str]] = {}
    for name in ("labeled", "unlabeled", "valid", "test"):
        for number in lists[name]:
            assert groups[number] not in excluded
            home.setdefault(shows[number], set()).add("trained" if "labeled" in name else name)
    assert all(len(lists) == 1 for lists in home.values()), home
    assert len({*groups[lists["test"]]} & {100}) + len({*groups[lists["labeled"]]} & {100}) <= 1
    assert len(lists["labeled"]) == 20 and 20 <= len(lists["valid"]) <= 40 and 45 <= len(lists["test"]) <= 65


def test_the_draw_by_persons_is_frozen() -> None:
    expressions = [NAMES[i % 3] for i in range(60)]
    lists = draw(expressions, alone(60), set(), sizes("6", test="25%"), 0, people=alone(60) // 6 * 6)
    assert lists["test"] == [0, 1, 2, 3, 4, 5, 54, 55, 56, 57, 58, 59]
    assert lists["labeled"] == [9, 16, 23, 24, 28, 32]


def posed(src: Path) -> Path:
    """CK+48 of ten drawn people, a sequence of three frames each."""
    rng = np.random.default_rng(0)
    for number in range(30):
        folder = src / ("anger", "fear", "happy")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (48, 48), np.uint8)
        Image.fromarray(pixels).save(folder / f"S{number // 3:03d}_001_{number:08d}.png")
    return src


def test_ckplus_is_split_by_subject_and_other_sets_by_a_pattern(tmp_path: Path) -> None:
    pack(posed(tmp_path / "ck"), tmp_path / "set", source="ckplus", name="ck", workers=1, licence="cc0-1.0")
    drawn = splits.split(tmp_path / "set", labels="100%", test="30%", seed=0, out=tmp_path / "0.json")
    shard_set = ShardSet.open(tmp_path / "set")
    person = {
        key: origin.rpartition("/")[2][:4]
        for shard in range(len(shard_set.counts))
        for key, origin in zip(shard_set.keys(shard), shard_set.origins(shard), strict=True)
    }
    shown = {name: {person[key] for key in drawn[name]} for name in ("test", "labeled")}
    assert not shown["test"] & shown["labeled"] and [len(drawn[n]) for n in ("test", "labeled")] == [9, 21]
    assert drawn["persons"] == 10 and "whole persons" in drawn["group_rule"]
    again = splits.split(
        tmp_path / "set", labels="3", test=f"{tmp_path}/0.json#test", valid="6", seed=1, out=tmp_path / "1.json"
    )
    assert again["people"] == drawn["people"] and again["test"] == drawn["test"]
    one = splits.split(tmp_path / "set", labels="100%", test="10", seed=0, people=r"_\d{7}", out=tmp_path / "2.json")
    assert one["persons"] == 3 and len(one["test"]) == 10
    for people, size, words in (
        ("nobody", "30%", "is in no origin of"),
        ("(", "30%", "no regular expression"),
        (None, "1/class", "give a count or a share"),
        ("ck|S", "30%", "1 person"),
    ):
        with pytest.raises(SplitError, match=words):
            splits.split(tmp_path / "set", labels="3", test=size, seed=0, people=people, out=tmp_path / "no.json")
