"""How a face lies in a tar, there and back."""

import tarfile
from pathlib import Path

import pytest

from shards.sample import Face, Sample, from_json, to_json
from shards.tar import parse
from shards.writer import write_tar

FACE = Face("fear", {"fear": 7.0, "unknown": 3.0}, (0.1, 0.2, 0.9, 1.0), "annotation")
SAMPLES = [
    Sample("000000000", b"jpeg", "jpg"),
    Sample("000000001", b"png" * 400, "png", FACE),
    Sample("000000005", b"", "webp", Face(expression="happiness")),
]


def test_samples_come_out_as_they_went_in(tmp_path: Path) -> None:
    spans = write_tar(tmp_path / "a.tar", SAMPLES)
    data = (tmp_path / "a.tar").read_bytes()
    assert [parse(data[offset : offset + length]) for offset, length in spans] == SAMPLES


def test_the_json_holds_what_is_known_and_nothing_else() -> None:
    assert to_json(Face(expression="fear", box=(0, 0, 1, 0.5))) == b'{"box":[0,0,1,0.5],"expression":"fear"}'
    assert from_json(to_json(FACE)) == FACE
    assert from_json(b'{"somebody": "else\'s"}') == Face()


def test_tars_are_plain_ustar_of_nobody_and_no_time(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", SAMPLES)
    write_tar(tmp_path / "b.tar", SAMPLES)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        found = tar.getmembers()
    names = ["000000000.jpg", "000000001.json", "000000001.png", "000000005.json", "000000005.webp"]
    assert [member.name for member in found] == names
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in found} == {(0, 0, 0, "", "", 0o444)}
    assert not any(member.pax_headers for member in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"expression": "happy"}', "unknown expression 'happy'; did you mean happiness"),
        (b'{"expression": 3}', "the expressions are neutral, happiness"),
        (b'{"box": [0, 0, 1]}', "four numbers"),
        (b'{"box": [0, 0, "1", 1]}', "four numbers"),
        (b'{"box": [0.5, 0, 0.5, 1]}', "x1 < x2"),
        (b'{"box": [0, 0, 100, 100]}', "shares of width and height"),
        (b'{"votes": [1, 2]}', "votes are a JSON object"),
        (b'{"votes": {"happiness": null}}', "votes are a JSON object of name: number, not {'happiness': None}"),
        (b'{"votes": {"happiness": "many"}}', "could not convert string to float: 'many'"),
        (b"[1]", "a face is a JSON object"),
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"votes": {"happiness": 1' + b"0" * 400 + b"}}", "a number of hundreds of digits"),
    ],
)
def test_a_face_that_cannot_be_is_refused_with_the_reason(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_the_number_of_faces_is_kept_and_what_others_say_under_its_name_is_passed_over() -> None:
    assert from_json(to_json(Face("fear", faces=0))) == Face("fear", faces=0)
    assert from_json(b'{"expression": "fear", "faces": [{"id": 7}]}') == Face("fear")


def test_a_piece_of_a_tar_that_is_no_sample_is_refused(tmp_path: Path) -> None:
    ((_, length),) = write_tar(tmp_path / "a.tar", [SAMPLES[1]])
    span = (tmp_path / "a.tar").read_bytes()[:length]
    with pytest.raises(ValueError, match="no image"):
        parse(span[:1024])
    with pytest.raises(ValueError, match="ends outside"):
        parse(span[:2000])
    with pytest.raises(ValueError):
        parse(bytes(1024))
    with pytest.raises(ValueError, match="a member of -512 bytes"):  # it would be read for ever
        parse(span[:124] + b"-0000001000" + span[135:])
