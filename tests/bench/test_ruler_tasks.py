"""RULER's tasks: what each sample hides, how often and where; lengths; the same samples for the same seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrqk_cli.bench.ruler.essay import Essay, insert_between_sentences
from lrqk_cli.bench.ruler.needles import NEEDLE_TASKS, NOISE
from lrqk_cli.bench.ruler.questions import read_qa
from lrqk_cli.bench.ruler.sample import Sample, fill
from lrqk_cli.bench.ruler.tasks import TASKS, TaskInputs, check_tasks, make_sample, reason_to_skip
from lrqk_cli.errors import ContextLengthError, DocumentError, UsageError

SHORT, LONG = 2048, 8192
NEEDLE = re.compile(r"One of the secret (?:numbers|UUIDs) for (\S+) is: (\S+)\.")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def count(sample: Sample) -> int:
    """A tokenizer: a token is a word, a piece of three digits or letters at most, or a sign."""
    text = f"{sample.prompt_text}\n{sample.answer_prefix}"
    return len(re.findall(r"[A-Za-z]{1,6}|\d{1,3}|[^\w\s]", text)) + sample.max_new_tokens


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> TaskInputs:
    folder = tmp_path_factory.mktemp("qa")
    return TaskInputs(Essay.made_up(), dict(read_qa(write(folder)) for write in (squad_file, hotpotqa_file)))


def squad_file(folder: Path) -> Path:
    articles = [
        [
            {
                "context": f"Article {article} paragraph {number} tells of town {article}-{number}. " * 8,
                "qas": [
                    {
                        "question": f"Which town is told of in paragraph {number} of article {article}?",
                        "answers": [{"text": f"town {article}-{number}"}, {"text": f"{article}-{number}"}],
                        "is_impossible": False,
                    },
                    {"question": "What is not told?", "answers": [], "is_impossible": True},
                ],
            }
            for number in range(4)
        ]
        for article in range(30)
    ]
    file = folder / "squad.json"
    file.write_text(json.dumps({"data": [{"paragraphs": article} for article in articles]}))
    return file


def hotpotqa_file(folder: Path) -> Path:
    questions = [
        {
            "question": f"Who is number {number}?",
            "answer": f"person {number}",
            "context": [
                [f"Title {number}-{part}", [f"Person {number} did deed {part}. ", "It was long ago. " * 4]]
                for part in range(3)
            ],
        }
        for number in range(40)
    ]
    file = folder / "hotpotqa.json"
    file.write_text(json.dumps(questions))
    return file


def make(task: str, sources: TaskInputs, index: int = 0, context: int = LONG, seed: int = 0) -> Sample:
    return make_sample(task, index, context, seed, sources, count)


@pytest.mark.parametrize("context", [1024, 4096, 16_000])
@pytest.mark.parametrize("task", TASKS)
def test_samples_fill_the_context_and_never_exceed_it(task: str, context: int, sources: TaskInputs) -> None:
    for index in range(3):
        used = count(make(task, sources, index, context))
        assert used <= context
        # Documents are the largest units of haystack.
        assert used > context - (150 if task.startswith("qa") else 70)


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_depends_on_seed_task_number_and_length_alone(task: str, sources: TaskInputs) -> None:
    first = make(task, sources, 3)
    make(task, sources, 4)
    assert make(task, sources, 3) == first
    others = (make(task, sources, 4), make(task, sources, 3, seed=1))
    assert all(other.prompt_text != first.prompt_text for other in others)
    if not task.startswith("qa"):
        assert all(other.references != first.references for other in others)


@pytest.mark.parametrize("task", TASKS)
def test_a_context_too_short_for_a_task_is_refused(task: str, sources: TaskInputs) -> None:
    with pytest.raises(ContextLengthError, match=task):
        make(task, sources, context=60)


@pytest.mark.parametrize("name", NEEDLE_TASKS)
def test_needles_by_their_definition(name: str, sources: TaskInputs) -> None:
    task = NEEDLE_TASKS[name]
    for index in range(5):
        sample = make(name, sources, index)
        found = NEEDLE.findall(sample.prompt_text)
        keys, values = [key for key, _ in found], [value for _, value in found]
        assert len(set(values)) == len(values)
        question = sample.prompt_text.rsplit("\n", 1)[1]
        asked = [
            key for key in dict.fromkeys(keys) if re.search(rf"(?<!\S){re.escape(key)}(?=[ ,])", question)
        ]
        assert len(asked) == task.queries
        assert sorted(sample.references) == sorted(value for key, value in found if key in asked)
        assert Counter(keys)[asked[0]] == task.values
        if task.haystack == "needles":
            assert len(found) > 50
        else:
            assert len(found) == task.keys * task.values
        assert all(bool(UUID.fullmatch(value)) == (task.value_kind == "UUIDs") for value in values)
        assert all(bool(UUID.fullmatch(key)) == (task.key_kind == "UUIDs") for key in keys)
        assert all(key in sample.answer_prefix for key in asked)
        assert not any(value in sample.answer_prefix for value in values)


def test_needle_tasks_are_those_of_the_paper() -> None:
    shapes = {name: (t.haystack, t.keys, t.values, t.queries) for name, t in NEEDLE_TASKS.items()}
    assert shapes == {
        "niah_single_1": ("noise", 1, 1, 1),
        "niah_single_2": ("essay", 1, 1, 1),
        "niah_single_3": ("essay", 1, 1, 1),
        "niah_multikey_1": ("essay", 4, 1, 1),
        "niah_multikey_2": ("needles", 1, 1, 1),
        "niah_multikey_3": ("needles", 1, 1, 1),
        "niah_multivalue": ("essay", 1, 4, 1),
        "niah_multiquery": ("essay", 4, 1, 4),
    }


@pytest.mark.parametrize("task", ["niah_single_1", "niah_single_2", "niah_multikey_2"])
def test_needles_lie_at_all_depths(task: str, sources: TaskInputs) -> None:
    depths = []
    for index in range(40):
        sample = make(task, sources, index, SHORT)
        depths.append(sample.prompt_text.index(sample.references[0]) / len(sample.prompt_text))
    assert {int(4 * depth) for depth in depths} == {0, 1, 2, 3}


def test_the_four_needles_of_a_sample_lie_apart(sources: TaskInputs) -> None:
    for index in range(10):
        text = make("niah_multivalue", sources, index).prompt_text
        places = [match.start() / len(text) for match in NEEDLE.finditer(text)]
        assert min(b - a for a, b in pairwise(places)) > 0.01


def test_an_essay_is_continued_from_its_beginning() -> None:
    essay = Essay("One two. Three four.\nFive.")
    assert essay.starts == [0, 2, 4]
    assert essay.passage(2, 8) == ["Three", "four.", "Five.", "One", "two.", "Three", "four.", "Five."]


def test_an_essay_without_words_is_refused() -> None:
    with pytest.raises(DocumentError):
        Essay(" \n ")


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    depths=st.lists(st.floats(0, 1), max_size=5, unique=True),
)
def test_needles_stand_between_sentences_in_the_order_of_their_depths(
    lengths: list[int], depths: list[float]
) -> None:
    words = [word for length in lengths for word in [*["word"] * (length - 1), "end."]]
    depths = sorted(depths)
    needles = [f"NEEDLE{number}." for number in range(len(depths))]
    text = insert_between_sentences(words, needles, depths).split()
    assert [word for word in text if word.startswith("NEEDLE")] == needles
    assert [word for word in text if not word.startswith("NEEDLE")] == words
    for before, word in pairwise(text):
        assert not word.startswith("NEEDLE") or before.endswith(".")


def test_the_chain_of_variables_is_whole_and_in_order(sources: TaskInputs) -> None:
    for index in range(5):
        sample = make("vt", sources, index)
        example, text = sample.prompt_text.split("\n\nFollow", 1)
        value = re.search(r"value (\d{5}) in the text above", text)
        assert value is not None
        lines = re.findall(r"^VAR (\w+) = (?:VAR )?(\w+)$", text, re.MULTILINE)
        assert [left for left, _ in lines] == list(sample.references)
        assert [right for _, right in lines] == [value[1], *sample.references[:-1]]
        assert len(set(sample.references)) == 5
        assert all(re.fullmatch("[A-Z]{5}", name) for name in sample.references)
        assert value[1] not in example
        shown = re.findall(r"^VAR (\w+) = ", example, re.MULTILINE)
        assert len(shown) == 5
        assert example.endswith(" ".join(shown))
        assert not any(name in sample.answer_prefix for name in sample.references)
        assert text.count(NOISE) > 100


@pytest.mark.parametrize(("context", "often", "seldom"), [(SHORT, 6, 1), (LONG, 30, 3), (40_000, 30, 3)])
def test_common_words_are_the_most_common(context: int, often: int, seldom: int, sources: TaskInputs) -> None:
    sample = make("cwe", sources, context=context)
    example, text = sample.prompt_text.split("\n\nHere", 1)
    counts = Counter(re.findall(r"\d+\. (\w+)", text))
    assert {word for word, number in counts.items() if number == often} == set(sample.references)
    assert set(counts.values()) == {often, seldom}
    assert len(sample.references) == 10
    numbers = [int(number) for number in re.findall(r"(\d+)\. ", text)]
    assert numbers == list(range(1, 1 + counts.total()))
    # A reference is found in an answer by its letters alone.
    assert not any(word != other and word in other for word in sample.references for other in counts)
    # The example before it has other words, and shows their answer.
    listed, answer = example.split("most often are:")
    example_counts = Counter(re.findall(r"\d+\. (\w+)", listed))
    assert not set(example_counts) & set(counts)
    assert re.findall(r"\d+\. (\w+)", answer) == [
        word for word, _ in sorted(example_counts.most_common(10), key=lambda item: answer.index(item[0]))
    ]


def test_frequent_words_follow_the_zeta_distribution(sources: TaskInputs) -> None:
    for context in (1024, LONG):
        sample = make("fwe", sources, context=context)
        text = sample.prompt_text.split("most often. ", 1)[1].split("\n", 1)[0]
        ranked = Counter(text.split()).most_common()
        assert ranked[0][0] == "..."
        assert [word for word, _ in ranked[1:4]] == list(sample.references)
        assert ranked[3][1] > ranked[4][1]
        assert all(re.fullmatch("[a-z]{6}", word) for word in sample.references)
        first = ranked[0][1]
        assert [number for _, number in ranked[1:4]] == pytest.approx(
            [first / 4, first / 9, first / 16], abs=1
        )


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
def test_the_documents_of_a_question_are_among_the_others(task: str, sources: TaskInputs) -> None:
    data = sources.qa[task]
    asked = set()
    for index in range(20):
        sample = make(task, sources, index, SHORT)
        question = next(q for q in data.questions if sample.prompt_text.endswith(f"Question: {q.text}"))
        asked.add(question.text)
        assert sample.references == question.answers
        for number in question.needed:
            assert sample.prompt_text.count(data.documents[number]) == 1
        places = [int(place) for place in re.findall(r"^Document (\d+):", sample.prompt_text, re.MULTILINE)]
        assert places == list(range(1, len(places) + 1))
        assert len(places) > 5
    assert len(asked) == 20


def test_documents_of_the_same_article_come_first(sources: TaskInputs) -> None:
    sample = make("qa_1", sources, context=SHORT)
    article = re.search(r"paragraph \d of article (\d+)", sample.prompt_text)
    assert article is not None
    assert all(sample.prompt_text.count(f"Article {article[1]} paragraph {n} ") == 8 for n in range(4))


def test_a_short_collection_is_repeated(sources: TaskInputs) -> None:
    data = sources.qa["qa_2"]
    sample = make("qa_2", sources, context=30_000)
    counts = {sample.prompt_text.count(f"\n{document}\n") for document in data.documents}
    assert min(counts) >= 2
    assert max(counts) - min(counts) <= 1


def test_a_question_that_cannot_be_answered_is_not_asked(sources: TaskInputs) -> None:
    assert len(sources.qa["qa_1"].questions) == 120
    assert all(question.answers for question in sources.qa["qa_1"].questions)


def test_questions_without_their_file_are_skipped_with_a_reason(sources: TaskInputs) -> None:
    alone = TaskInputs(sources.essay)
    assert reason_to_skip("qa_1", alone) == "no --qa-data in the form of SQuAD"
    assert reason_to_skip("qa_2", alone) == "no --qa-data in the form of HotpotQA"
    assert reason_to_skip("vt", alone) is None
    assert reason_to_skip("qa_1", sources) is None


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "[1]", '{"data": 3}', '{"data": []}', "\x00", '"text"', "3"]
)
def test_a_file_that_is_no_collection_of_questions_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "qa.json"
    file.write_text(content)
    with pytest.raises(DocumentError):
        read_qa(file)


def test_names_of_tasks() -> None:
    assert len(check_tasks(["all"])) == 13
    assert check_tasks(["vt", "cwe"]) == ("vt", "cwe")
    with pytest.raises(UsageError) as failure:
        check_tasks(["niah_single_4"])
    assert "niah_single" in failure.value.hint


@settings(max_examples=100, deadline=None)
@given(
    fixed=st.integers(0, 50),
    sizes=st.lists(st.integers(1, 9), min_size=60, max_size=60),
    context=st.integers(60, 300),
    fewest=st.integers(1, 3),
    most=st.none() | st.integers(3, 60),
)
def test_filling_stops_within_a_unit_or_at_the_most(
    fixed: int, sizes: list[int], context: int, fewest: int, most: int | None
) -> None:
    units = sizes * 6

    def build(number: int) -> Sample:
        return Sample("t", "x" * (fixed + sum(units[:number])), "", ("x",), 0)

    if fixed + sum(units[:fewest]) > context:
        return
    used = len(fill(build, lambda sample: len(sample.prompt_text), context, fewest, most).prompt_text)
    assert used <= context
    at_most = most is not None and used == fixed + sum(units[:most])
    assert at_most or used > context - 2 * max(sizes)
