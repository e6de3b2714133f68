"""tests/THREATS.md names what holds each promise: every file and test that it names is there, and none is named in vain."""
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TEXT = (TESTS / "THREATS.md").read_text()
# `folder/file.ext`, `folder/file.py::test`: a file of the folders that the tests have
NAMED = re.findall(r"`((?:unit|e2e|rules|fuzz|models|proofs|bench|long|soak|cases|guards|requests)/[^`\s:]+)(?:::(\w+))?`", TEXT)


def missing(named):
    for path, test in named:
        file = TESTS / ("cases/" + path if path.startswith("requests/") else path)
        if not file.exists():
            yield path
        elif test and not re.search(r"^def %s\(" % test, file.read_text(), re.M):
            yield path + "::" + test


def test_what_it_names_is_there():
    assert len(NAMED) > 150, len(NAMED)
    assert list(missing(NAMED)) == []


def test_what_is_not_there_is_found():
    assert list(missing([("e2e/test_nothing.py", "")])) and list(missing([("e2e/test_reload.py", "test_nothing")]))


def test_stored_cases_have_a_verdict():
    verdicts = (TESTS / "cases" / "requests" / "verdicts.tsv").read_text()
    for path, _ in NAMED:
        if path.startswith("requests/") and path.endswith(".xml"):
            assert re.search(r"^%s(\.xml)?\t" % re.escape(path[9:-4]), verdicts, re.M), path


def test_each_promise_is_held_and_in_the_table():
    promises = re.findall(r"^\*\*(P\d+)\.", TEXT, re.M)
    assert promises == ["P%d" % (n + 1) for n in range(len(promises))]
    parts = re.split(r"^\*\*P\d+\.", TEXT.split("## Where each class")[0], flags=re.M)[1:]
    assert all("*Held by*" in part for part in parts)
    assert set(re.findall(r"P\d+", TEXT.split("## Where each class")[1])) >= set(promises) - {"P15"}  # of no class: a key that is lost on the way
