import pytest

from sid_jax.data.texts import match_texts, read_texts
from sid_jax.errors import InputError


def test_texts_of_a_file_with_what_is_odd(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('item_id,text,extra\n7,"whole, milk",x\nb,,\n')
    texts, notes = read_texts(path)
    assert texts == {"7": "whole, milk", "b": ""}
    assert len(notes) == 1 and "line 3" in notes[0] and "without a text" in notes[0]
    assert match_texts(path, texts, ["b", "7"]) == ["", "whole, milk"]
    (tmp_path / "t.jsonl").write_text('{"item_id": 7, "text": "tea"}\n')
    assert read_texts(tmp_path / "t.jsonl") == ({"7": "tea"}, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id,words\na,b\n", "no column text; it has item_id, words"),
        ("item_id,text\n,b\n", "without an item_id: 1 at line 2"),
        ("item_id,text\na,b\na,c\n", "earlier row: 1 at line 3 .'a'"),
    ],
)
def test_bad_texts_are_refused(content, message, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["a", "b", "c"], "no text for 1 of 3 items: 'c'"), (["a"], "1 texts .*'b'")],
)
def test_nothing_is_lost(ids, message, tmp_path):
    with pytest.raises(InputError, match=message):
        match_texts(tmp_path / "t.csv", {"a": "x", "b": "y"}, ids)
