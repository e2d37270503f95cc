"""The limits on file sizes."""

from pathlib import Path

from tools.check_sizes import PACKAGE_LIMIT, check, count_code


def write(path: Path, num_lines: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x\n" * num_lines)


def test_files_within_the_aim_pass(tmp_path: Path) -> None:
    write(tmp_path / "flaxen" / "a.py", 300)
    write(tmp_path / "csrc" / "c.cc", 800)
    write(tmp_path / "flaxen" / "data.json", 5000)
    assert check(tmp_path) == ([], [])


def test_a_file_over_the_aim_is_noted(tmp_path: Path) -> None:
    write(tmp_path / "tests" / "a.py", 400)
    assert check(tmp_path) == (["tests/a.py: 400 lines, aim 300"], [])


def test_a_file_over_its_limit_fails(tmp_path: Path) -> None:
    write(tmp_path / "flaxen" / "a.py", 401)
    write(tmp_path / "csrc" / "b.cc", 801)
    assert check(tmp_path)[1] == [
        "flaxen/a.py: 401 lines, limit 400: split it by idea",
        "csrc/b.cc: 801 lines, limit 800: split it by idea",
    ]


def test_the_package_has_a_limit(tmp_path: Path) -> None:
    num_files = PACKAGE_LIMIT // 399 + 1
    for i in range(num_files):
        write(tmp_path / "flaxen" / str(i // 12) / f"{i}.py", 399)
    found = f"flaxen/: {num_files * 399} lines of code in all, limit {PACKAGE_LIMIT}"
    assert check(tmp_path)[1] == [found]


def test_a_room_has_a_limit(tmp_path: Path) -> None:
    for i in range(13):
        write(tmp_path / "flaxen" / "models" / str(i) / "a.py", 399)
        write(tmp_path / "flaxen" / f"{i}.py", 40)
    assert check(tmp_path)[1] == ["flaxen/models/: 5187 lines of code, limit 5000: it is two rooms"]


def test_words_do_not_count(tmp_path: Path) -> None:
    text = '''"""Two lines
of words."""

# A comment.
x = 1  # one line of code


def f() -> str:
    """Words."""
    return """two
    lines"""
'''
    assert count_code(text) == 4
