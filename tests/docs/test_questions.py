"""docs/questions.md: each question's commands, run as they stand there on a log with planted answers (`questions_log`), and what
is known to be the answer (`questions_answers`).

bash takes the commands apart, and does what follows a pipe or a redirection; keytrail itself runs in this process. Each question
has a folder of its own, so that none depends on another.
"""

from __future__ import annotations

import html
import itertools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

from proxy.cli import app
from tests.docs.questions_answers import EXPECTED, Says
from tests.docs.questions_log import BUCKET, DATA_FOLDER, OBJECT, object_metadata, plant
from tests.docs.repository import read_required

_NAMES = re.compile(r"\A# .*?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_QUESTION = re.compile(r"^### +([^\n]+)\n\n```sh\n(.*?)^```\n\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_TABLE = re.compile(r"<h2 id=\"[\w-]+\">\d+\. ([^<]+)</h2>(.*?)</section>", re.DOTALL)
_BODY = re.compile(r"<tbody>(.*?)</tbody>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Question:
    """A heading of the document, the block below it, and what is said about the answer."""

    text: str
    block: str
    prose: str

    def commands(self) -> list[str]:
        """Those of the block, each with its pipe or redirection; one that is not closed yet goes on in the next line."""
        found: list[str] = []
        for line in self.block.splitlines():
            if found and _QUOTED.sub("", found[-1]).count('"'):
                found[-1] += f"\n{line}"
            else:
                found.append(line)
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a command; `page` is what it wrote as HTML."""

    command: str
    exit_code: int
    out: str
    err: str
    page: str = ""


DOCUMENT = read_required("docs/questions.md")
QUESTIONS = [Question(*found) for found in _QUESTION.findall(DOCUMENT)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions") / "planted"
    plant(folder)
    return folder


@pytest.fixture
def folder(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was planted, in which the commands are given."""
    folder = tmp_path / "reader"
    shutil.copytree(planted, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def bucket(aws: str, aws_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 with the object that is asked about."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", aws)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=OBJECT, Body=b"in confidence", Metadata=object_metadata())


def test_every_question_has_an_answer_that_is_known_and_nothing_else_has() -> None:
    assert [question.text for question in QUESTIONS] == re.findall(r"^### +(.+)$", DOCUMENT, re.MULTILINE), (
        "a question without a block"
    )
    assert [question.text for question in QUESTIONS] == list(EXPECTED)
    for expected in EXPECTED.values():
        assert expected.says and all(said.found and said.absent for said in expected.says)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.text)
def test_the_documented_commands_give_the_answer(question: Question, folder: Path, request: pytest.FixtureRequest) -> None:
    if '"$OBJECT"' in question.block:
        request.getfixturevalue("bucket")
    answers = [run(command) for command in question.commands()]
    expected = EXPECTED[question.text]
    assert tuple(answer.exit_code for answer in answers) == expected.exits, answers
    for said in expected.says:
        text = part(said, answers, question)
        for pattern in said.found:
            assert re.search(pattern, text, re.MULTILINE), f"{pattern} is not in {said.where}:\n{text}"
        for pattern in said.absent:
            assert not re.search(pattern, text, re.MULTILINE), f"{pattern} is in {said.where}:\n{text}"


def test_a_log_that_was_changed_is_not_called_protected(folder: Path) -> None:
    (question,) = (question for question in QUESTIONS if question.text.startswith("Is the log protected"))
    segment = next((folder / DATA_FOLDER / "log" / "w0").glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes().replace(b"user/eve", b"user/bob", 1))
    (answer,) = map(run, question.commands())
    assert answer.exit_code == 1
    assert "✗ 5." in answer.out and "Verified." not in answer.out


def test_what_is_there_is_not_attested_to_be_absent(folder: Path) -> None:
    (question,) = (question for question in QUESTIONS if question.text.startswith("Can it be proved"))
    answer = run(question.commands()[0].replace("2025-12-01", "2025-10-01"))
    assert answer.exit_code == 1
    assert "reader/alice" in answer.out + answer.err
    assert not (folder / "absence.json").exists()


def run(command: str) -> Answer:
    """`command`, in the working folder, with the names that the document gives first."""
    head, rest = parted(command)
    names = _NAMES.search(DOCUMENT)
    assert names, "docs/questions.md does not begin with names"
    taken_apart = bash(names[1] + 'keytrail() { printf "%s\\0" "$KEYTRAIL_DATA" "$@"; }\n' + head, "")
    assert taken_apart.returncode == 0 and not taken_apart.stderr, taken_apart.stderr
    data, *words = taken_apart.stdout.split("\0")[:-1]
    result = CliRunner().invoke(app, words, env={"KEYTRAIL_DATA": data}, catch_exceptions=False)
    pages = [Path(word).read_text() for option, word in itertools.pairwise(words) if option == "--html"]
    if not rest:
        return Answer(command, result.exit_code, result.stdout, result.stderr, "".join(pages))
    after = bash(f"{names[1]}cat {rest}", result.stdout)
    return Answer(command, after.returncode, after.stdout, result.stderr + after.stderr)


def parted(command: str) -> tuple[str, str]:
    """The command of keytrail, and from its first pipe or redirection on what else there is."""
    assert command.startswith("keytrail "), f"not a command of keytrail: {command}"
    bare = _QUOTED.sub(lambda quoted: "q" * len(quoted[0]), command)
    at = min((bare.find(sign) for sign in "|>" if sign in bare), default=len(bare))
    return command[:at], command[at:]


def bash(script: str, given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-eu", "-c", script], input=given, capture_output=True, text=True, timeout=10, check=False)


def part(said: Says, answers: list[Answer], question: Question) -> str:
    """The part of the answers that `said` is about; one that is named has to be named to the reader too."""
    if isinstance(said.where, int):
        return answers[said.where].out + answers[said.where].err
    if re.fullmatch(r"KT\d{3}", said.where):
        assert said.where in question.prose
        return "\n".join(line for line in answers[-1].out.splitlines() if f'"rule": "{said.where}"' in line)
    assert f"*{said.where}*" in question.prose
    (table,) = (content for title, content in _TABLE.findall(answers[0].page) if html.unescape(title) == said.where)
    return rows(table)


def rows(table: str) -> str:
    """The cells of a table of a report, a row a line, without the query that is shown with it."""
    (body,) = _BODY.findall(table)
    cells = re.sub(r"</t[dh]>", " | ", body.replace("\n", " ").replace("</tr>", "\n"))
    return html.unescape(re.sub(r"<[^>]+>", "", cells.replace("<li>", " ")))
