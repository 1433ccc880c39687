"""`memory-service knowledge`: a folder of texts becomes knowledge, and again when it has changed; and is searched."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from client import MemoryServiceClient
from memory_service.cli import main
from memory_service.documents import PIECE_CHARACTERS, Unusable, documents_of, pieces
from tests.api.talking import commits
from tests.conftest import Serve

LONG = "\n\n".join(f"Paragraph {number} tells of soup." + " Bread and butter." * 20 for number in range(14))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    for name, text in {
        "welcome.md": "Welcome to everybody.\n\n## Where we are ##\n\nIn Lisbon.",
        "policies/leave.txt": "# no heading in a text\nEverybody has thirty days of leave.",
        "policies/de/urlaub.md": "# Urlaub\r\n\r\nAlle haben dreißig Tage.",
        "long/soup.MD": LONG,
        "picture.png": "no text",
    }.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(text.encode())
    return made


async def command(*words: str | Path) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["knowledge", *map(str, words)])


async def imported(folder: Path, url: str, *more: str) -> str:
    result = await command("import", folder, "--url", url, *more)
    assert result.exit_code == 0, result.output
    return result.stdout


async def known(url: str) -> dict[str, Any]:
    async with MemoryServiceClient(url, "ana") as client:
        found = await client.recall_knowledge("soup bread leave Lisbon welcome Tage new words", 100)
        return {one["doc_id"]: one for one in found["results"]}


# Pieces


def test_a_short_text_is_one_piece_and_a_long_one_is_cut_behind_paragraphs() -> None:
    assert list(pieces("One.\n\nTwo.")) == ["One.\n\nTwo."]
    made = list(pieces(LONG))
    assert len(made) > 2
    assert "\n\n".join(made) == LONG.strip()
    assert all(PIECE_CHARACTERS // 2 < len(piece) <= PIECE_CHARACTERS for piece in made[:-1])


@pytest.mark.parametrize("text", ["line of words\n", "A sentence. ", "words ", "文の終わり。"])
def test_a_long_paragraph_is_cut_at_the_next_best_place(text: str) -> None:
    made = list(pieces(text * 600, 200))
    assert all(100 < len(piece) <= 200 for piece in made[:-1])
    assert all(text.strip().startswith(piece[: len(text.strip())]) for piece in made)


def test_a_word_is_never_cut_however_long() -> None:
    assert list(pieces("x" * 5000)) == ["x" * 5000]
    assert list(pieces("a " + "x" * 5000 + " b")) == ["a", "x" * 5000, "b"]


@given(st.text(st.sampled_from("ab.\n 。!"), max_size=400), st.integers(2, 60))
def test_nothing_of_a_text_is_lost_doubled_or_moved(text: str, about: int) -> None:
    made = list(pieces(text, about))
    assert re.sub(r"\s", "", "".join(made)) == re.sub(r"\s", "", text)
    assert all(made)
    assert re.findall(r"[ab]+", " ".join(made)) == re.findall(r"[ab]+", text), "no word is cut"


def test_titles_and_categories_come_from_the_text_and_its_place(folder: Path) -> None:
    def first(name: str, category: str | None = None) -> tuple[str, str, str | None]:
        document = documents_of(folder, folder / name, category)[0]
        return document.doc_id, document.category, document.title

    assert first("welcome.md") == ("welcome.md", "general", "Where we are")
    assert first("policies/leave.txt") == ("policies/leave.txt", "policies", "leave.txt")
    assert first("policies/de/urlaub.md", "hr") == ("policies/de/urlaub.md", "hr", "Urlaub")
    (folder / "odd.md").write_text("# \x1b[31m red\tand  wide " + "x" * 600)
    title = first("odd.md")[2]
    assert title is not None
    assert title.startswith("[31m red and wide xx")
    assert len(title) == 500
    (folder / "empty.md").write_text("\ufeff \n")
    with pytest.raises(Unusable, match="empty"):
        first("empty.md")


# Through a service


async def test_a_folder_becomes_knowledge(serve: Serve, folder: Path) -> None:
    url = await serve()
    cut = len(list(pieces(LONG)))
    said = await imported(folder, url)
    assert said.splitlines()[-1] == f"files 4, created {cut + 3}, replaced 0, unchanged 0, deleted 0, left out 0"
    found = await known(url)
    parts = {"long/soup.MD", *(f"long/soup.MD#{number}" for number in range(2, cut + 1))}
    assert set(found) == parts | {"welcome.md", "policies/leave.txt", "policies/de/urlaub.md"}
    assert "\n\n".join(found[name]["content"] for name in sorted(parts)) == LONG.strip()
    assert (found["welcome.md"]["title"], found["welcome.md"]["category"]) == ("Where we are", "general")
    assert found["policies/de/urlaub.md"]["content"] == "# Urlaub\n\nAlle haben dreißig Tage."


async def test_a_second_import_writes_only_what_has_changed(serve: Serve, folder: Path) -> None:
    url = await serve()
    await imported(folder, url)
    cut = len(list(pieces(LONG)))
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        before = await commits(http)
        said = await imported(folder, url)
        assert said.splitlines()[-1] == f"files 4, created 0, replaced 0, unchanged {cut + 3}, deleted 0, left out 0"
        assert await commits(http) == before
    (folder / "welcome.md").write_text("New words.")
    said = await imported(folder, url)
    assert said.splitlines()[-1] == f"files 4, created 0, replaced 1, unchanged {cut + 2}, deleted 0, left out 0"
    assert (await known(url))["welcome.md"]["title"] == "welcome.md"
    said = await imported(folder, url, "--category", "All")
    assert said.splitlines()[-1] == f"files 4, created 0, replaced {cut + 3}, unchanged 0, deleted 0, left out 0"
    assert {one["category"] for one in (await known(url)).values()} == {"all"}


async def test_pieces_that_a_file_no_longer_has_are_deleted(serve: Serve, folder: Path) -> None:
    url = await serve()
    await imported(folder, url)
    cut = len(list(pieces(LONG)))
    (folder / "long/soup.MD").write_text("There is soup.\n")
    said = await imported(folder, url)
    assert said.splitlines()[-1] == f"files 4, created 0, replaced 1, unchanged 3, deleted {cut - 1}, left out 0"
    found = await known(url)
    assert [name for name in found if name.startswith("long")] == ["long/soup.MD"]
    assert found["long/soup.MD"]["content"] == "There is soup."


async def test_files_that_cannot_be_used_are_named_and_the_rest_is_taken(serve: Serve, folder: Path) -> None:
    url = await serve()
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "blank.md").write_text(" \n\n")
    (folder / "nul.md").write_text("a\x00b")
    (folder / "endless.txt").write_text("x" * 20_001)
    result = await command("import", folder, "--url", url)
    assert result.exit_code == 1
    assert "files 4, created" in result.stdout
    assert result.stdout.endswith("left out 4\n")
    for line in (
        f"{folder}/latin.txt was left out: not UTF-8",
        f"{folder}/blank.md was left out: empty",
        f"{folder}/nul.md was left out: $.content: holds a NUL character",
        f"{folder}/endless.txt was left out: $.content: Expected `str` of length <= 20000",
    ):
        assert line in result.stderr.splitlines()
    assert {"welcome.md", "policies/leave.txt"} <= set(await known(url))
    assert not {"latin.txt", "blank.md", "nul.md", "endless.txt"} & set(await known(url))


async def test_knowledge_is_searched_from_the_command_line(serve: Serve, folder: Path) -> None:
    url = await serve()
    (folder / "evil.md").write_text("# Soup\n\nxyzzy \x1b]0;title\x07 \u202e" + "soup " * 100)
    await imported(folder, url)
    result = await command("recall", "thirty days of leave", "--top-k", "1", "--url", url)
    assert result.exit_code == 0
    head, excerpt = result.stdout.splitlines()
    assert re.fullmatch(r"\d\.\d\d policies/leave\.txt \[policies\] leave\.txt", head)
    assert "Everybody has thirty days of leave." in excerpt
    result = await command("recall", "xyzzy", "--category", "General", "--top-k", "1", "--url", url)
    assert "evil.md" in result.stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(result.stdout)
    assert max(map(len, result.stdout.splitlines())) < 250
    result = await command("recall", "xyzzy", "--category", "none", "--url", url)
    assert (result.exit_code, result.stdout) == (0, "")


def test_it_is_said_in_one_line_that_no_service_answers(folder: Path) -> None:
    for words in (["import", str(folder)], ["recall", "soup"]):
        result = CliRunner().invoke(main, ["knowledge", *words, "--url", "http://127.0.0.1:9"])
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("Error: connection_failed: no answer to POST /knowledge")
        assert "Traceback" not in result.output
