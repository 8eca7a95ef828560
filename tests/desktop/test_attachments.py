"""Files for a question: which text they become, in whatever encoding, and why others do not."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.client import MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, File
from answerback_desktop.attachments import BLOCK_BYTES, ChosenFile, Refusal, decoded, read_bytes, read_file, within

KOREAN = "이름,금액\n김철수,1000\n"


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"plain\n", "plain\n", "utf-8"),
        (KOREAN.encode(), KOREAN, "utf-8"),
        (KOREAN.encode("utf-8-sig"), KOREAN, "utf-8"),
        (KOREAN.encode("cp949"), KOREAN, "cp949"),
        (KOREAN.encode("utf-16"), KOREAN, "utf-16"),
        ("ascii only".encode("utf-16-le"), "ascii only", "utf-16le"),
        ("ascii only".encode("utf-16-be"), "ascii only", "utf-16be"),
        ("日本語のテキスト".encode("cp932"), "日本語のテキスト", "cp932"),
        ("naïve café".encode("latin-1"), "naïve café", "cp1252"),
        (b"a\r\nb\rc", "a\nb\nc", "utf-8"),
        (b"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m", "utf-8"),
    ],
)
def test_text_is_read_in_its_encoding(data: bytes, text: str, encoding: str):
    assert decoded(data) == (text, encoding)


@pytest.mark.parametrize(
    ("name", "data", "refusal"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n...", Refusal.IMAGE),
        ("a.txt", b"\xff\xd8\xff\xe0 a photo with a wrong name", Refusal.IMAGE),
        ("a.webp", b"RIFF\x00\x00\x00\x00WEBPVP8 ", Refusal.IMAGE),
        ("a.heic", b"\x00\x00\x00\x18ftypheic", Refusal.IMAGE_FORM),
        ("a.bmp", b"BM" + bytes(40), Refusal.IMAGE_FORM),
        ("a.pdf", b"%PDF-1.7\n", Refusal.PDF),
        ("a.docx", b"PK\x03\x04 word/document.xml", Refusal.DOCUMENT),
        ("a.hwp", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Refusal.DOCUMENT),
        ("a.out", b"\x7fELF\x02\x01\x01" + bytes(40), Refusal.BINARY),
        ("a.txt", b"", Refusal.EMPTY),
        ("a.txt", b"x" * (MAX_ATTACHMENT_BYTES + 1), Refusal.FILE_TOO_LARGE),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(MAX_ATTACHMENT_BYTES), Refusal.FILE_TOO_LARGE),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, name: str, data: bytes, refusal: Refusal):
    path = tmp_path / name
    path.write_bytes(data)
    found = read_file(path)
    assert (found.refusal, found.text, found.size_bytes) == (refusal, "", len(data))


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    found = [read_file(tmp_path / name).refusal for name in ("", "pipe", "missing")]
    assert found == [Refusal.FOLDER, Refusal.UNREADABLE, Refusal.UNREADABLE]


def test_a_block_has_the_name_and_the_language(tmp_path: Path):
    (tmp_path / "sum.py").write_text("print(1 + 1)")
    assert read_file(tmp_path / "sum.py").block == "sum.py:\n```py\nprint(1 + 1)\n```\n"
    (tmp_path / "notes.txt").write_text("one\n")
    assert read_file(tmp_path / "notes.txt").block == "notes.txt:\n```\none\n```\n"


def test_a_name_cannot_break_out_of_its_line(tmp_path: Path):
    (tmp_path / "a\n```b").write_text("x")
    assert read_file(tmp_path / "a\n```b").block.startswith("a____b:\n```\nx")


@given(st.text(alphabet="`~ab \n", max_size=60))
def test_no_text_ends_its_fence_early(text: str):
    lines = ChosenFile(name="a", text=text).block.split("\n")
    fence = lines[-2]
    inside = lines[2:-2]
    assert not any(line.strip().startswith(fence) for line in inside)


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_refused(data: bytes):
    text, encoding = decoded(data)
    assert bool(encoding) or not text
    assert "\0" not in text


def test_what_does_not_fit_is_refused_and_the_rest_goes_in():
    files = [ChosenFile(name=name, text="x" * size) for name, size in (("a", 50), ("b", 500), ("c", 50))]
    fitting = within(files, 200, measure=len)
    assert [one.refusal for one in fitting] == [None, Refusal.TOO_LARGE, None]
    assert fitting[1].text == ""


PNG = b"\x89PNG\r\n\x1a\n and pixels"
ALL_KINDS = ("text", "image", "document")


def chosen(name: str, data: bytes) -> ChosenFile:
    return read_bytes(name, data, len(data))


@pytest.mark.parametrize(
    ("name", "data", "kinds", "media_type"),
    [
        ("a.png", PNG, ALL_KINDS, "image/png"),
        ("", PNG, ALL_KINDS, "image/png"),
        ("a.png", PNG, ("text",), None),
        ("a.pdf", b"%PDF-1.7", ("document",), "application/pdf"),
        ("a.pdf", b"%PDF-1.7", ("text", "image"), None),
        ("a.csv", KOREAN.encode("cp949") * 1_000, ALL_KINDS, "text/csv"),
        ("a.csv", KOREAN.encode("cp949") * 1_000, (), None),
        ("a.docx", b"PK\x03\x04 word/document.xml", ALL_KINDS, None),
        ("a.bmp", b"BM" + bytes(40), ALL_KINDS, None),
        ("short.txt", b"short", ALL_KINDS, None),
    ],
)
def test_a_file_goes_with_the_question_if_the_model_takes_its_kind(name, data, kinds, media_type):
    [one] = within([chosen(name, data)], 1_000_000, measure=len, kinds=kinds)
    assert (None if one.file is None else one.file.media_type) == media_type
    if one.file is not None:
        assert one.refusal is None
        assert one.file.name == (name or "image")
        expected = KOREAN.encode() * 1_000 if data.startswith(KOREAN.encode("cp949")) else data
        assert one.file.data == expected, "text is sent as UTF-8, whatever it was in"


def test_text_that_does_not_fit_into_the_question_goes_with_it():
    small, large = chosen("a.txt", b"x" * 50), chosen("b.txt", b"x" * (BLOCK_BYTES + 1))
    sent = within([small, small, large], 100, measure=len, kinds=("text",))
    assert [one.file is not None for one in sent] == [False, True, True]
    assert [one.refusal for one in sent] == [None, None, None]


def test_a_question_takes_no_more_files_than_the_protocol_says():
    beside = [File(name="a.png", data=PNG)] * (MAX_ATTACHMENTS - 1)
    sent = within([chosen("a.png", PNG)] * 2, 100, measure=len, kinds=ALL_KINDS, beside=beside)
    assert [one.refusal for one in sent] == [None, Refusal.TOO_MANY]
    large = chosen("a.png", PNG.ljust(MAX_ATTACHMENT_BYTES, b"x"))
    sent = within([large] * 5, 100, measure=len, kinds=ALL_KINDS)
    assert [one.refusal for one in sent] == [None] * 4 + [Refusal.TOO_MANY]
