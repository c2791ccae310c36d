"""Messages: one line of bounded length that a terminal only prints, whatever they repeat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terareg.core import errors
from terareg.core.errors import ConfigError, TeraregError, few, last_line, one_line

KINDS = [k for n, k in vars(errors).items() if n.endswith("Error")]


@pytest.mark.slow
@given(st.text() | st.text(max_size=20).map(lambda text: text * 500))
def test_every_message_is_one_line_that_a_terminal_only_prints(text):
    message = str(ConfigError(f"points a.csv: {text}; correct it"))
    assert message.startswith("points a.csv: ") and message.endswith("; correct it")
    assert message.isprintable() and len(message) < 1200
    assert str(ConfigError(message)) == message


@pytest.mark.parametrize("kind", KINDS)
def test_the_middle_of_a_very_long_message_is_left_out_and_counted(kind):
    text = f"a.csv: column {'9' * 5000} is not known; " + "remove it " * 20
    error = kind(text)
    message = str(error)
    assert message.startswith("a.csv: column 999") and message.endswith("remove it remove it")
    kept = message.split(" ... ")
    assert kept[1] == f"({len(text.strip()) - len(kept[0]) - len(kept[2])} characters left out)"
    # what names the object further up keeps the whole sentence
    assert str(kind(f"sample brain: {error}")) == f"sample brain: {message}"


def test_what_a_file_or_a_library_says_cannot_move_the_cursor_or_turn_the_writing():
    assert one_line("a\x1b[2Jb") == r"a\x1b[2Jb"
    assert one_line("left\u202etfel") == r"left\u202etfel"
    assert one_line("name\udcff.tif") == r"name\udcff.tif"
    assert one_line("first \r\n  second\u2028third\n") == "first second third"
    assert one_line("für 25 µm, 小脑, {braces}") == "für 25 µm, 小脑, {braces}"
    assert last_line(ValueError("header\n\n  the reason.\n")) == "the reason"


def test_no_kind_of_error_has_a_way_around_it():
    assert TeraregError in KINDS and len(KINDS) > 9
    assert all(issubclass(k, TeraregError) and k.__init__ is TeraregError.__init__ for k in KINDS)


def test_of_many_names_five_are_told():
    assert few(iter("abcdefg")) == "a, b, c, d, e and 2 more"
    assert few([1, 2]) == "1, 2" and few([]) == ""
