"""The labeled datasets, as small trees in their published layouts."""

import errno
import io
import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.errors import Broken, ShardError
from shards.expressions import EXPRESSIONS
from shards.index import ShardSet
from shards.pack import pack
from shards.pixels import decode
from shards.sources import SOURCES, entries
from shards.sources.labeled import face_with_box
from shards.sources.listing import Listing

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]


def listed(source: str, src: Path, split: str | None = None) -> Listing:
    return entries(source, src, split=split, protocol="argmax")


def labels(listing: Listing) -> dict[str, str | None]:
    return {entry.origin: entry.face.expression if entry.face else None for entry in listing.entries}


def left_out(listing: Listing) -> dict[str, bool]:
    """What is left out, and whether it counts."""
    return {left.path: left.counts for left in listing.left_out}


def reasons(listing: Listing) -> dict[str, str]:
    return {left.path: left.reason for left in listing.left_out}


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def picture(path: Path, size: tuple[int, int] = (20, 10), **saved: object) -> Path:
    """A grey image, another one for each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "png" if path.suffix == ".png" else "jpeg"
    Image.new("L", size, sum(path.name.encode()) % 256).save(path, kind, **saved)
    return path


def packed(src: Path, source: str, split: str | None = None, **settings: str) -> ShardSet:
    return pack(src, src.with_name(f"{source}-set"), source=source, split=split, workers=1, **settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ RAF-DB


def rafdb(src: Path, rows: str, list_name: str = "list_patition_label.txt", kind: str = "aligned") -> Path:
    """RAF-DB's tree: the list, and an image for each row."""
    write(src / "EmoLabel" / list_name, rows)
    for line in rows.splitlines():
        name = line.split()[0].removesuffix(".jpg")
        picture(src / "Image" / kind / (f"{name}_aligned.jpg" if kind == "aligned" else f"{name}.jpg"))
    return src


def test_a_list_of_rafdb_in_another_encoding_is_said(tmp_path: Path) -> None:
    src = rafdb(tmp_path, RAFDB_ROWS)
    (src / "EmoLabel" / "list_patition_label.txt").write_text(RAFDB_ROWS, encoding="utf-16")
    with pytest.raises(ShardError, match=r"list_patition_label\.txt: is no text in UTF-8 .*save it as that"):
        listed("rafdb", src)


RAFDB_ROWS = "".join(f"train_0000{n}.jpg {n}\n" for n in range(1, 8)) + "test_0001.jpg 4\ntest_0002.jpg 7\n"


@pytest.mark.parametrize("list_name", ["list_patition_label.txt", "list_partition_label.txt"])
def test_rafdb_reads_its_list_and_finds_the_aligned_images(tmp_path: Path, list_name: str) -> None:
    src = rafdb(tmp_path / "raf", RAFDB_ROWS, list_name)
    train, test = listed("rafdb", src, "train"), listed("rafdb", src, "test")
    assert labels(train) == {
        "Image/aligned/train_00001_aligned.jpg": "surprise",
        "Image/aligned/train_00002_aligned.jpg": "fear",
        "Image/aligned/train_00003_aligned.jpg": "disgust",
        "Image/aligned/train_00004_aligned.jpg": "happiness",
        "Image/aligned/train_00005_aligned.jpg": "sadness",
        "Image/aligned/train_00006_aligned.jpg": "anger",
        "Image/aligned/train_00007_aligned.jpg": "neutral",
    }
    assert labels(test) == {
        "Image/aligned/test_0001_aligned.jpg": "happiness",
        "Image/aligned/test_0002_aligned.jpg": "neutral",
    }
    assert labels(listed("rafdb", src)) == labels(train) | labels(test)
    first = test.entries[0]
    assert first.read() == (src / first.origin).read_bytes() and first.size_bytes == len(first.read())
    assert first.identity is None and not train.left_out
    with pytest.raises(ShardError, match="no split valid in it; there are train, test"):
        listed("rafdb", src, "valid")


def test_rafdb_counts_a_missing_image_and_an_image_without_a_row(tmp_path: Path) -> None:
    src = rafdb(tmp_path / "raf", "train_00001.jpg 1\ntrain_00002.jpg 2\n")
    (src / "Image" / "aligned" / "train_00001_aligned.jpg").unlink()
    picture(src / "Image" / "aligned" / "train_00003_aligned.jpg")
    picture(src / "Image" / "aligned" / "test_0009_aligned.jpg")  # of another part
    listing = listed("rafdb", src, "train")
    assert labels(listing) == {"Image/aligned/train_00002_aligned.jpg": "fear"}
    assert reasons(listing) == {
        "Image/aligned/train_00001_aligned.jpg": "list_patition_label.txt names it, but there is no such image",
        "Image/aligned/train_00003_aligned.jpg": "no row for it in list_patition_label.txt",
    }
    assert all(left.counts for left in listing.left_out)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_00002.jpg 8", "unknown class '8'; the classes are 1 surprise, 2 fear, .*7 neutral"),
        ("train_00002.jpg 0", "unknown class '0'"),
        ("train_00002.jpg happy", "unknown class 'happy'"),
        ("valid_00002.jpg 1", "valid_00002.jpg begins neither with train_ nor with test_"),
        ("train_00002.jpg", "not enough values"),
    ],
)
def test_a_wrong_line_of_rafdb_is_named(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path / "EmoLabel" / "list_patition_label.txt", f"train_00001.jpg 1\n\n{line}\n")
    with pytest.raises(ShardError, match=rf"list_patition_label\.txt:3: {message}"):
        listed("rafdb", tmp_path)


def test_rafdbs_whole_pictures_come_with_their_boxes(tmp_path: Path) -> None:
    rows = "".join(f"train_0000{n}.jpg 6\n" for n in range(1, 6))
    src = rafdb(tmp_path / "raf", rows, kind="original")  # 20 x 10 px
    boxes = src / "Annotation" / "boundingbox"
    write(boxes / "train_00001_boundingbox.txt", "5.0 2.5 15.0 7.5 \n")
    write(boxes / "train_00002_boundingbox.txt", "-3 -1 30 5")
    write(boxes / "train_00003_boundingbox.txt", "25 2 30 7")  # beside the picture
    write(boxes / "train_00004_boundingbox.txt", "5 2 15 7")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(src / "Image" / "original" / "train_00004.jpg", exif=exif)
    faces = [entry.face for entry in listed("rafdb", src).entries]
    assert [face and face.box for face in faces] == [(0.25, 0.25, 0.75, 0.75), (0, 0, 1, 0.5), None, None, None]
    assert [face and face.box_source for face in faces] == ["annotation", "annotation", None, None, None]
    assert {face.expression for face in faces if face} == {"anger"}
    write(boxes / "train_00005_boundingbox.txt", "5 2 15")
    with pytest.raises(ShardError, match=r"train_00005_boundingbox\.txt: not four numbers"):
        listed("rafdb", src)


@pytest.mark.parametrize("above", ["", "DATASET"])
def test_rafdbs_copies_in_numbered_folders_are_split_by_name(tmp_path: Path, above: str) -> None:
    root = tmp_path / above
    for path in ("train/1/train_00001_aligned.jpg", "train/7/train_00002_aligned.jpg", "test/4/test_0001_aligned.jpg"):
        picture(root / path)
    picture(root / "valid/2/test_0002_aligned.jpg")  # as some copies call the folder of the test images
    write(root / "train/1/Thumbs.db", "x")
    write(root / "train/labels.csv", "x")
    write(root / "train/.cache/x.jpg", "x")
    listing = listed("rafdb", tmp_path, "train")
    assert labels(listing) == {
        "train/1/train_00001_aligned.jpg": "surprise",
        "train/7/train_00002_aligned.jpg": "neutral",
    }
    assert left_out(listing) == {"train/1/Thumbs.db": False, "train/labels.csv": False}
    assert labels(listed("rafdb", tmp_path, "test")) == {
        "valid/2/test_0002_aligned.jpg": "fear",
        "test/4/test_0001_aligned.jpg": "happiness",
    }
    picture(root / "train/0/train_00003_aligned.jpg")
    with pytest.raises(ShardError, match=r"train/0: unknown class '0'; the classes are 1 surprise"):
        listed("rafdb", tmp_path)


# ------------------------------------------------------------------------------------------------ FER2013


def fer2013_row(emotion: str, usage: str, first: int = 0) -> str:
    pixels = " ".join(str((first + n) % 256) for n in range(48 * 48))
    return f"{emotion},{pixels},{usage}\n"


def fer2013(src: Path, rows: list[str]) -> Path:
    write(src / "fer2013.csv", "emotion,pixels,Usage\n" + "".join(rows))
    return src


def test_fer2013_makes_images_of_its_numbers(tmp_path: Path) -> None:
    rows = [fer2013_row(str(n), "Training", n) for n in range(7)]
    src = fer2013(tmp_path, [*rows, fer2013_row("3", "PublicTest"), fer2013_row("4", "PrivateTest")])
    train = listed("fer2013", src, "train")
    assert labels(train) == {
        "fer2013.csv#2": "anger",
        "fer2013.csv#3": "disgust",
        "fer2013.csv#4": "fear",
        "fer2013.csv#5": "happiness",
        "fer2013.csv#6": "sadness",
        "fer2013.csv#7": "surprise",
        "fer2013.csv#8": "neutral",
    }
    assert labels(listed("fer2013", src, "valid")) == {"fer2013.csv#9": "happiness"}
    assert labels(listed("fer2013", src, "test")) == {"fer2013.csv#10": "sadness"}
    assert len(listed("fer2013", src).entries) == 9
    entry = pickle.loads(pickle.dumps(train.entries[5]))
    grey = (5 + np.arange(48 * 48)) % 256
    data = entry.read()
    assert (decode(data) == grey.astype(np.uint8).reshape(48, 48, 1)).all()
    assert len(data) == entry.size_bytes == 2420 and data == train.entries[5].read()
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (48, 48))
        image.load()


def test_every_row_of_fer2013_is_found_again(tmp_path: Path) -> None:
    listing = listed(
        "fer2013", fer2013(tmp_path, [fer2013_row("0", "Training", n) + "\n" * (n % 3) for n in range(40)])
    )
    assert [decode(entry.read())[0, 0, 0] for entry in listing.entries] == list(range(40))


def test_fer2013_heeds_the_order_of_columns_quotes_and_line_ends(tmp_path: Path) -> None:
    emotion, pixels, usage = fer2013_row("6", "PrivateTest").strip().split(",")
    write(tmp_path / "fer2013.csv", f'emotion, Usage, pixels\r\n{emotion},"{usage}","{pixels}"\r\n\r\n')
    listing = listed("fer2013", tmp_path, "test")
    assert labels(listing) == {"fer2013.csv#2": "neutral"}
    assert decode(listing.entries[0].read())[0, :3, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7,0 0,Training", "unknown class '7'; the classes are 0 anger, 1 disgust, .*6 neutral"),
        ("happy,0 0,Training", "unknown class 'happy'"),
        ("3,0 0,Validation", "none of the Usages Training, PublicTest, PrivateTest"),
        ("3,0 0", "none of the Usages"),
    ],
)
def test_a_wrong_row_of_fer2013_is_named(tmp_path: Path, row: str, message: str) -> None:
    fer2013(tmp_path, [fer2013_row("0", "Training"), f"{row}\n"])
    with pytest.raises(ShardError, match=rf"fer2013\.csv:3: {message}"):
        listed("fer2013", tmp_path)


def test_fer2013_says_what_it_misses(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"neither fer2013\.csv nor folders train/angry"):
        listed("fer2013", tmp_path)
    fer2013(tmp_path, [fer2013_row("0", "Training")])
    with pytest.raises(ShardError, match=r"no split test in it; there are train$"):
        listed("fer2013", tmp_path, "test")
    write(tmp_path / "fer2013.csv", "emotion,pixels\n")
    with pytest.raises(ShardError, match=r"fer2013\.csv:1: not the columns emotion, pixels, Usage"):
        listed("fer2013", tmp_path)


def test_pixels_of_fer2013_that_are_no_image_are_left_out_by_name(tmp_path: Path) -> None:
    good = [fer2013_row("3", "Training", n) for n in range(3)]
    src = fer2013(tmp_path / "fer", [*good, "3,1 2 3,Training\n", good[0].replace("255", "256", 1)])
    with pytest.raises(
        ShardError, match=r"2 of 5 images cannot be packed(?s:.*)fer2013\.csv#5: 3 pixels instead of 48"
    ):
        packed(src, "fer2013")
    shards = packed(src, "fer2013", max_left_out="2")
    assert shards.index["left_out"] == {
        "3 pixels instead of 48x48": 1,
        "its pixels are not numbers from 0 to 255": 1,
    }
    assert sorted(shards.origins(0)) == [f"fer:fer2013.csv#{n}" for n in (2, 3, 4)]


def test_fer2013s_copy_in_folders_has_the_published_parts(tmp_path: Path) -> None:
    """The best-known copy puts the valid part and the test part into one folder."""
    folders = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    for number, folder in enumerate(folders):
        picture(tmp_path / "train" / folder / f"Training_{number}.jpg")
    picture(tmp_path / "test" / "angry" / "PublicTest_1.jpg")
    picture(tmp_path / "test" / "happy" / "PrivateTest_2.jpg")
    assert labels(listed("fer2013", tmp_path, "train")) == {
        "train/angry/Training_0.jpg": "anger",
        "train/disgust/Training_1.jpg": "disgust",
        "train/fear/Training_2.jpg": "fear",
        "train/happy/Training_3.jpg": "happiness",
        "train/neutral/Training_4.jpg": "neutral",
        "train/sad/Training_5.jpg": "sadness",
        "train/surprise/Training_6.jpg": "surprise",
    }
    assert labels(listed("fer2013", tmp_path, "valid")) == {"test/angry/PublicTest_1.jpg": "anger"}
    assert labels(listed("fer2013", tmp_path, "test")) == {"test/happy/PrivateTest_2.jpg": "happiness"}


def test_fer2013s_copies_of_other_names_are_split_by_folder(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "3" / "0.png")
    picture(tmp_path / "validation" / "Sadness" / "1.png")
    assert labels(listed("fer2013", tmp_path, "train")) == {"train/3/0.png": "happiness"}
    assert labels(listed("fer2013", tmp_path, "valid")) == {"validation/Sadness/1.png": "sadness"}
    with pytest.raises(ShardError, match="no split test in it; there are train, valid"):
        listed("fer2013", tmp_path, "test")
    picture(tmp_path / "train" / "glad" / "0.png")
    with pytest.raises(ShardError, match=r"train/glad: unknown expression 'glad'"):
        listed("fer2013", tmp_path)


# ------------------------------------------------------------------------------------------------ AffectNet

HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"


def affectnet_row(path: str, expression: str, box: str = "5,2,10,5") -> str:
    return f"{path},{box},1.5;2.5;3.5;4.5,{expression},0.1,-0.2\n"


def affectnet(
    src: Path, rows: list[str], images: str = "Manually_Annotated_Images", file: str = "training.csv"
) -> Path:
    write(src / file, HEADER + "".join(rows))
    for row in rows:
        picture(src / images / row.split(",")[0])
    return src


def test_affectnets_csv_gives_every_expression_and_drops_what_is_none(tmp_path: Path) -> None:
    src = affectnet(tmp_path, [affectnet_row(f"1/{n}.jpg", str(n)) for n in range(11)])
    listing = listed("affectnet", src, "train")
    assert labels(listing) == {
        "Manually_Annotated_Images/1/0.jpg#training:2": "neutral",
        "Manually_Annotated_Images/1/1.jpg#training:3": "happiness",
        "Manually_Annotated_Images/1/2.jpg#training:4": "sadness",
        "Manually_Annotated_Images/1/3.jpg#training:5": "surprise",
        "Manually_Annotated_Images/1/4.jpg#training:6": "fear",
        "Manually_Annotated_Images/1/5.jpg#training:7": "disgust",
        "Manually_Annotated_Images/1/6.jpg#training:8": "anger",
        "Manually_Annotated_Images/1/7.jpg#training:9": "contempt",
    }
    assert reasons(listing) == {
        "Manually_Annotated_Images/1/8.jpg#training:10": "no expression: none",
        "Manually_Annotated_Images/1/9.jpg#training:11": "no expression: uncertain",
        "Manually_Annotated_Images/1/10.jpg#training:12": "no expression: no face",
    }
    assert not any(left.counts for left in listing.left_out)


def test_several_faces_of_one_image_of_affectnet_keep_their_own_boxes(tmp_path: Path) -> None:
    rows = [affectnet_row("a.jpg", "1", "0,0,10,5"), affectnet_row("a.jpg", "6", "10,5,30,30")]
    listing = listed("affectnet", affectnet(tmp_path, rows), "train")
    assert [(entry.origin, entry.face and entry.face.box) for entry in listing.entries] == [
        ("Manually_Annotated_Images/a.jpg#training:2", (0, 0, 0.5, 0.5)),
        ("Manually_Annotated_Images/a.jpg#training:3", (0.5, 0.5, 1, 1)),  # cut off at the edges of 20 x 10 px
    ]
    assert {entry.face.box_source for entry in listing.entries if entry.face} == {"annotation"}
    assert {entry.read() for entry in listing.entries} == {(tmp_path / "Manually_Annotated_Images/a.jpg").read_bytes()}


def test_rows_of_affectnet_without_face_numbers_or_image(tmp_path: Path) -> None:
    rows = [
        affectnet_row("good.jpg", "0"),
        affectnet_row("no_face.jpg", "1", "-1,-1,-1,-1"),
        affectnet_row("no_number.jpg", "NULL"),
        affectnet_row("no_box.jpg", "1", "x,2,10,5"),
        "short.jpg,1,2\n",
        "\n",
        affectnet_row("gone.jpg", "1"),
    ]
    src = affectnet(tmp_path, [row for row in rows if row.strip()])
    write(src / "training.csv", HEADER + "".join(rows))
    (src / "Manually_Annotated_Images" / "gone.jpg").unlink()
    listing = listed("affectnet", src)
    assert labels(listing) == {"Manually_Annotated_Images/good.jpg#training:2": "neutral"}
    assert left_out(listing) == {
        "Manually_Annotated_Images/no_face.jpg#training:3": False,
        "Manually_Annotated_Images/no_number.jpg#training:4": True,
        "Manually_Annotated_Images/no_box.jpg#training:5": True,
        "Manually_Annotated_Images/short.jpg#training:6": True,
        "Manually_Annotated_Images/gone.jpg#training:8": True,
    }
    write(src / "training.csv", HEADER + affectnet_row("good.jpg", "0") + affectnet_row("good.jpg", "11"))
    with pytest.raises(ShardError, match=r"training\.csv:3: unknown class 11; the classes are 0 neutral, .*10 no face"):
        listed("affectnet", src)


@pytest.mark.parametrize("images", ["Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images", "."])
def test_affectnets_validation_set_is_both_valid_and_test(tmp_path: Path, images: str) -> None:
    """The release's validation.csv has no header; its file lists may lie in a folder of their own."""
    affectnet(tmp_path, [affectnet_row("1/t.jpg", "0")], images, "Manually_Annotated_file_lists/training.csv")
    with pytest.raises(ShardError, match=r"no split test in it; there are train$"):
        listed("affectnet", tmp_path, "test")
    write(tmp_path / "Manually_Annotated_file_lists" / "validation.csv", affectnet_row("2/v.jpg", "3"))
    picture(tmp_path / images / "2" / "v.jpg")
    before = "" if images == "." else f"{images}/"
    assert labels(listed("affectnet", tmp_path, "train")) == {f"{before}1/t.jpg#training:2": "neutral"}
    assert labels(listed("affectnet", tmp_path, "valid")) == {f"{before}2/v.jpg#validation:1": "surprise"}
    assert labels(listed("affectnet", tmp_path, "test")) == {f"{before}2/v.jpg#validation:1": "surprise"}
    assert len(listed("affectnet", tmp_path).entries) == 2


class Trap:
    """Unpickling one writes a file."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, ("unpickled", "w"))


def annotate(src: Path, number: str, label: object, folder: str = "train_set") -> None:
    picture(src / folder / "images" / f"{number}.jpg")
    file = src / folder / "annotations" / f"{number}_exp.npy"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, np.array(label))
    write(file.with_name(f"{number}_val.npy"), b"not looked at")


def test_affectnets_crops_have_their_label_in_an_npy_as_number_or_text(tmp_path: Path) -> None:
    for number in range(8):
        annotate(tmp_path, str(number), str(number))
    annotate(tmp_path, "70", 7)
    annotate(tmp_path, "71", 1.0)
    annotate(tmp_path, "80", "8")
    annotate(tmp_path, "5", "2", "val_set")
    listing = listed("affectnet", tmp_path, "train")
    assert labels(listing) == {
        "train_set/images/0.jpg": "neutral",
        "train_set/images/1.jpg": "happiness",
        "train_set/images/2.jpg": "sadness",
        "train_set/images/3.jpg": "surprise",
        "train_set/images/4.jpg": "fear",
        "train_set/images/5.jpg": "disgust",
        "train_set/images/6.jpg": "anger",
        "train_set/images/7.jpg": "contempt",
        "train_set/images/70.jpg": "contempt",
        "train_set/images/71.jpg": "happiness",
    }
    assert left_out(listing) == {"train_set/images/80.jpg": False}
    assert labels(listed("affectnet", tmp_path, "test")) == {"val_set/images/5.jpg": "sadness"}


def test_affectnets_crops_without_a_readable_label_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in ("0", "1", "2", "3", "4", "5", "6"):
        annotate(tmp_path, number, "0")
    annotations = tmp_path / "train_set" / "annotations"
    np.save(annotations / "1_exp.npy", np.array(Trap(), dtype=object), allow_pickle=True)
    write(annotations / "2_exp.npy", pickle.dumps(Trap()))
    write(annotations / "3_exp.npy", b"")
    np.save(annotations / "4_exp.npy", np.array([1, 2]))
    (annotations / "5_exp.npy").unlink()
    (tmp_path / "train_set" / "images" / "6.jpg").unlink()
    listing = listed("affectnet", tmp_path)
    assert labels(listing) == {"train_set/images/0.jpg": "neutral"}
    assert left_out(listing) == {f"train_set/images/{number}.jpg": True for number in range(1, 7)}
    said = reasons(listing)
    assert "allow_pickle=False" in said["train_set/images/1.jpg"] + said["train_set/images/2.jpg"]
    assert said["train_set/images/5.jpg"] == "no _exp.npy for it"
    assert not (tmp_path / "unpickled").exists()
    np.save(annotations / "0_exp.npy", np.array("happy"))
    with pytest.raises(ShardError, match=r"0_exp\.npy: unknown class 'happy'"):
        listed("affectnet", tmp_path)


def test_what_a_mac_puts_beside_affectnets_crops_is_passed_over(tmp_path: Path) -> None:
    annotate(tmp_path, "0", "0")
    write(tmp_path / "train_set" / "images" / "._0.jpg", b"of a Mac")
    write(tmp_path / "train_set" / "annotations" / "._0_exp.npy", b"of a Mac")
    listing = listed("affectnet", tmp_path)
    assert labels(listing) == {"train_set/images/0.jpg": "neutral"} and not listing.left_out


# ------------------------------------------------------------------------------------------------ CK+, JAFFE


@pytest.mark.parametrize("above", ["", "CK+48"])
def test_ckplus_knows_its_people(tmp_path: Path, above: str) -> None:
    for path in (
        "anger/S010_004_00000017.png",
        "contempt/S138_008_00000007.png",
        "disgust/S005_001_00000009.png",
        "fear/S010_002_00000012.png",
        "happy/S010_006_00000013.png",
        "sadness/S014_002_00000016.png",
        "surprise/other.png",
    ):
        picture(tmp_path / above / path)
    listing = listed("ckplus", tmp_path)
    assert [(entry.origin, entry.face and entry.face.expression, entry.identity) for entry in listing.entries] == [
        ("anger/S010_004_00000017.png", "anger", "S010"),
        ("contempt/S138_008_00000007.png", "contempt", "S138"),
        ("disgust/S005_001_00000009.png", "disgust", "S005"),
        ("fear/S010_002_00000012.png", "fear", "S010"),
        ("happy/S010_006_00000013.png", "happiness", "S010"),
        ("sadness/S014_002_00000016.png", "sadness", "S014"),
        ("surprise/other.png", "surprise", None),
    ]
    with pytest.raises(ShardError, match="'ckplus' knows no splits"):
        listed("ckplus", tmp_path, "train")
    picture(tmp_path / above / "angst" / "S010_004_00000018.png")
    with pytest.raises(ShardError, match="angst: unknown expression 'angst'"):
        listed("ckplus", tmp_path)


def test_jaffe_says_who_and_what_in_its_names(tmp_path: Path) -> None:
    for name in ("KA.AN1.39", "KA.DI2.43", "KL.FE1.174", "KM.HA2.5", "NA.NE3.203", "TM.SA1.184", "YM.SU2.59"):
        picture(tmp_path / f"{name}.tiff")
    write(tmp_path / "README", "x")
    listing = listed("jaffe", tmp_path)
    assert [(entry.origin, entry.face and entry.face.expression, entry.identity) for entry in listing.entries] == [
        ("KA.AN1.39.tiff", "anger", "KA"),
        ("KA.DI2.43.tiff", "disgust", "KA"),
        ("KL.FE1.174.tiff", "fear", "KL"),
        ("KM.HA2.5.tiff", "happiness", "KM"),
        ("NA.NE3.203.tiff", "neutral", "NA"),
        ("TM.SA1.184.tiff", "sadness", "TM"),
        ("YM.SU2.59.tiff", "surprise", "YM"),
    ]
    assert left_out(listing) == {"README": False}
    picture(tmp_path / "KA.XX1.39.tiff")
    with pytest.raises(ShardError, match=r"KA\.XX1\.39\.tiff: unknown class 'XX'"):
        listed("jaffe", tmp_path)


def test_a_disk_that_fails_while_boxes_are_listed_costs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    with (
        monkeypatch.context() as patch,
        pytest.raises(Broken, match=r"1\.jpg: Stale file handle; .*same command again"),
    ):
        patch.setattr(Image, "open", fails)
        face_with_box("fear", tmp_path / "1.jpg", (0, 0, 5, 5))
    assert face_with_box("fear", picture(tmp_path / "1.jpg"), (0, 0, 5, 5)).box == (0, 0, 0.25, 0.5)


def test_a_folder_of_a_class_takes_for_images_what_a_folder_of_people_does(tmp_path: Path) -> None:
    names = ["1.jfif", "2.gif", "3.avif", "4.PPM", "5.png", "Thumbs.db", "notes.txt"]
    for name in names:
        write(tmp_path / "Train" / "Angry" / name, "x")
    classes, people = listed("sfew", tmp_path), listed("folder", tmp_path)
    assert list(labels(classes)) == list(labels(people)) == [f"Train/Angry/{name}" for name in names[:5]]
    assert left_out(classes) == left_out(people)


def test_sfew_has_a_train_and_a_valid_part(tmp_path: Path) -> None:
    for number, folder in enumerate(("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")):
        picture(tmp_path / "Train" / folder / f"{number}.png")
    picture(tmp_path / "Val" / "Sad" / "9.png")
    picture(tmp_path / "Test" / "10.png")
    assert labels(listed("sfew", tmp_path, "train")) == {
        "Train/Angry/0.png": "anger",
        "Train/Disgust/1.png": "disgust",
        "Train/Fear/2.png": "fear",
        "Train/Happy/3.png": "happiness",
        "Train/Neutral/4.png": "neutral",
        "Train/Sad/5.png": "sadness",
        "Train/Surprise/6.png": "surprise",
    }
    assert labels(listed("sfew", tmp_path, "valid")) == {"Val/Sad/9.png": "sadness"}
    with pytest.raises(ShardError, match="no split test in it; there are train, valid"):
        listed("sfew", tmp_path, "test")


# ------------------------------------------------------------------------------------------------ all of them


def ckplus_tree(src: Path) -> Path:
    for number, folder in enumerate(("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")):
        picture(src / folder / f"S{number:03d}_001_00000001.png")
    return src


def crops_tree(src: Path) -> Path:
    for number in range(8):
        annotate(src, str(number), number)
    return src


def jaffe_tree(src: Path) -> Path:
    for number, code in enumerate(("NE", "HA", "SU", "SA", "AN", "DI", "FE")):
        picture(src / f"K{number}.{code}1.{number}.tiff")
    return src


def ferplus_tree(src: Path) -> Path:
    votes = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for number in range(8):
        picture(src / "FER2013Train" / f"{number}.png")
        votes.append(f"Training,{number}.png," + ",".join("9" if n == number else "0" for n in range(10)))
    write(src / "fer2013new.csv", "\n".join(votes) + "\n")
    return src


SEVEN = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"]
TREES: list[tuple[str, Callable[[Path], Path], dict[str, int]]] = [
    ("ferplus", ferplus_tree, dict.fromkeys(NAMES, 1)),
    (
        "fer2013",
        lambda src: fer2013(src, [fer2013_row(str(n), "Training", n) for n in range(7)]),
        dict.fromkeys(SEVEN, 1),
    ),
    ("rafdb", lambda src: rafdb(src, RAFDB_ROWS), dict.fromkeys(SEVEN, 1) | {"happiness": 2, "neutral": 2}),
    (
        "affectnet",
        lambda src: affectnet(src, [affectnet_row(f"{n}.jpg", str(n)) for n in range(11)]),
        dict.fromkeys(NAMES, 1),
    ),
    ("affectnet", crops_tree, dict.fromkeys(NAMES, 1)),
    ("ckplus", ckplus_tree, dict.fromkeys([*SEVEN[1:], "contempt"], 1)),
    ("jaffe", jaffe_tree, dict.fromkeys(SEVEN, 1)),
]


@pytest.mark.parametrize(("source", "tree", "counts"), TREES)
def test_every_labeled_source_gives_the_eight_names_only(
    tmp_path: Path, source: str, tree: Callable[[Path], Path], counts: dict[str, int]
) -> None:
    assert list(EXPRESSIONS) == NAMES
    listing = listed(source, tree(tmp_path / "src"))
    found = Counter(labels(listing).values())
    assert found == counts and set(found) <= set(NAMES)
    assert source in SOURCES


@pytest.mark.parametrize(("source", "tree", "counts"), TREES)
def test_every_labeled_source_is_packed_with_its_classes(
    tmp_path: Path, source: str, tree: Callable[[Path], Path], counts: dict[str, int]
) -> None:
    shards = packed(tree(tmp_path / "src"), source)
    assert shards.index["expressions"] == counts and shards.samples == sum(counts.values())
    assert shards.index["identities"] == (7 if source in ("ckplus", "jaffe") else None)
    boxes = {face.box_source for sample in shards.samples_in_order() if (face := sample.face)}
    assert boxes == ({"annotation"} if "#" in shards.origins(0)[0] and source == "affectnet" else {"template"})
