"""Every export says the same about the same items; its name does not matter."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases.exports import (
    ABSTAINED,
    ANNOTATIONS,
    EXPORTS,
    PEOPLE,
    SAID,
    WITHOUT_ABSTENTIONS,
    argilla,
    csv_of,
    each,
    label_studio,
    label_studio_rows,
    lines,
    mturk,
    prodigy,
    zooniverse_reductions,
)

from pl2d_ppl.data import read_data

CLASSES = {"binary.jsonl": ("accept", "reject"), "popquorn.csv": ("0", "1", "2")}


def read(tmp_path, name, content, **options):
    (tmp_path / name).write_bytes(content)
    return read_data(tmp_path / name, subset=True, **options)[0]


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export(tmp_path, name):
    write, abstains, has_truth = EXPORTS[name]
    data = read(tmp_path, name, write())
    order = [data.items.tolist().index(item) for item in SAID]
    expected = np.array(ANNOTATIONS)
    if name == "popquorn.csv":
        expected = np.where(expected >= 0, expected + 1, -1)
    assert data.annotators == PEOPLE
    assert data.classes == CLASSES.get(name, ("cat", "dog"))
    np.testing.assert_array_equal(data.annotations[order], expected)
    assert (data.abstained is not None) == abstains
    if abstains:
        assert np.argwhere(data.abstained[order]).tolist() == [list(ABSTAINED)]
    assert data.y[order].tolist() == [1 if has_truth else -1, -1, -1, -1]


@pytest.mark.parametrize("name", ["ls.json", "batch.csv", "prodigy.jsonl"])
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_names_do_not_matter_and_files_may_be_compressed(tmp_path, name, ending):
    content = EXPORTS[name][0]()
    plain = read(tmp_path, name, content)
    packed = {"": lambda c: c, ".gz": gzip.compress, ".zst": lambda c: pa.compress(c, "zstd", asbytes=True)}
    strange = read(tmp_path, f"export{ending}" if ending else "export.txt", packed[ending](content))
    np.testing.assert_array_equal(strange.annotations, plain.annotations)
    assert strange.annotators == plain.annotators


def test_predictions_are_the_ai(tmp_path):
    data = read(tmp_path, "ls.json", label_studio())
    np.testing.assert_allclose(data.ai, [[0.75, 0.25], [0, 0], [0, 0], [0, 0]])


def test_reductions_are_votes(tmp_path):
    data = read(tmp_path, "reductions.csv", zooniverse_reductions())
    assert data.classes == ("cat", "dog")
    assert data.counts.tolist() == [[1, 1], [3, 0], [0, 1], [0, 2]]
    assert data.num_experts == 0


def test_columns_of_lists_in_parquet(tmp_path):
    rows = [json.loads(line) for line in argilla().splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub.parquet")
    data, _ = read_data(tmp_path / "hub.parquet", subset=True)
    np.testing.assert_array_equal(data.annotations, ANNOTATIONS)
    nested = [r | {"animal": {k: [v[k] for v in r["animal"]] for k in ("user_id", "value", "status")}} for r in rows]
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "lists.parquet")
    np.testing.assert_array_equal(read_data(tmp_path / "lists.parquet", subset=True)[0].annotations, ANNOTATIONS)


def test_varierr_has_a_list_of_people_for_each_label(tmp_path):
    kinds = ("entailment", "neutral", "contradiction")
    said = {"e1": ({1}, {2}, set()), "e2": (set(), {1}, {2})}
    rows = [
        {"id": i, "context": "c", "statement": "s", "idk": [3]}
        | {
            kind: [{"annotator": m, "reason": "r", "judgments": []} for m in who]
            for kind, who in zip(kinds, sets, strict=True)
        }
        for i, sets in said.items()
    ]
    data = read(tmp_path, "varierr.json", lines(rows))
    assert data.classes == ("contradiction", "entailment", "neutral")
    assert data.annotations.tolist() == [[1, 2, -1], [2, 0, -1]]
    assert data.abstained[:, 2].tolist() == [True, True]
    rows[0]["neutral"].append({"annotator": 1})
    with pytest.raises(
        ValueError, match=r"one label of a person for an item, found several .* of '1' for 'e1'. Choose"
    ):
        read(tmp_path, "varierr.json", lines(rows))


def test_a_reviewed_set_of_prodigy_has_truth_and_versions(tmp_path):
    version = lambda label, *who: {"accept": [label], "answer": "accept", "sessions": list(who)}  # noqa: E731
    rows = [
        {"_input_hash": 1, "accept": ["dog"], "answer": "accept", "options": [], "sessions": ["ann", "bo", "cy"]}
        | {"versions": [version("dog", "ann", "bo"), version("cat", "cy")]}
    ]
    data = read(tmp_path, "review.jsonl", lines(rows))
    assert (data.annotators, data.y.tolist(), data.annotations.tolist()) == (PEOPLE, [1], [[1, 1, 0]])


def test_scales_of_lewidi_go_below_zero(tmp_path):
    content = {"1": {"annotations": {"A1": "-5", "A2": "3"}}, "2": {"annotations": {"A1": "-1", "A2": "5"}}}
    data = read(tmp_path, "par.json", json.dumps(content).encode())
    assert data.classes == ("-5", "-1", "3", "5")
    assert data.annotations.tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "ls.json",
            lambda c: c.replace(b'"choices": ["cat"]', b'"choices": ["cat", "dog"]', 1),
            "one label of a person",
        ),
        (
            "ls.json",
            lambda c: c.replace(b'"from_name": "animal"', b'"from_name": "mood"', 1),
            "one question in .* 'mood'",
        ),
        ("ls.csv", lambda c: c.replace(b"text of i1", b"other text", 1), "one question in .* 'animal', 'text'. Choose"),
        (
            "prodigy.jsonl",
            lambda c: c.replace(b"_annotator_id", b"who"),
            "_annotator_id or _session_id in every example",
        ),
        ("doccano.zip", lambda c: c.replace(b"ann.jsonl", b"all.jsonl"), "one file for each user, found all.jsonl"),
        (
            "lewidi2.json",
            lambda c: c.replace(b"ann,bo", b"ann", 1),
            "a person for each annotation of 'i1', found 1 people",
        ),
        ("answers.csv", lambda c: c.replace(b'[{""category', b'[{"category', 1), "bad|JSON|quot|fields"),
        (
            "zooniverse.csv",
            lambda c: c.replace(b"T0", b"T1", 1),
            "one question in the export of Zooniverse, found 'T1', 'T0'",
        ),
        ("lists.jsonl", lambda c: c.replace(b'["ann", "bo"]', b'["ann"]', 1), "a person for each label in 'labels'"),
        ("argilla.jsonl", lambda c: c.replace(b'"cat"', b'["cat", {"dog": 1}]', 1), "a label that is one category"),
        ("ls.json", lambda c: c[: len(c) // 2], "JSON in .*ls.json, found"),
        ("flat.jsonl", lambda c: b"[1, 2]", "an export of an annotation tool, or a list of records"),
    ],
)
def test_what_is_refused(tmp_path, name, change, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, name, change(EXPORTS[name][0]()))


def test_a_question_is_chosen(tmp_path):
    rows = [row | {"mood": "good" if i % 2 else "bad"} for i, row in enumerate(label_studio_rows())]
    with pytest.raises(ValueError, match=r"found 'animal', 'mood'. Choose one: question='animal'"):
        read(tmp_path, "ls.csv", csv_of(rows))
    assert read(tmp_path, "ls.csv", csv_of(rows), question="mood").classes == ("bad", "good")
    assert read(tmp_path, "ls.csv", csv_of(rows), columns={"label": "mood"}).classes == ("bad", "good")
    with pytest.raises(ValueError, match=r"the question 'age' in .*, found"):
        read(tmp_path, "prodigy.json", label_studio(), question="age")


def test_rejected_work_is_left_out(tmp_path):
    assert "spammer" not in read(tmp_path, "batch.csv", mturk()).annotators


def test_the_newest_of_revisions(tmp_path):
    rows = label_studio_rows()
    rows.insert(0, rows[0] | {"animal": "dog", "annotation_id": 99, "updated_at": "2025-01-01T00:00:00Z"})
    with pytest.raises(ValueError, match="one label of a person for an item"):
        read(tmp_path, "ls.csv", csv_of(rows))
    assert read(tmp_path, "ls.csv", csv_of(rows), duplicates="newest").annotations[0].tolist() == [1, 1, -1]
    assert read(tmp_path, "ls.csv", csv_of(rows), duplicates="last").annotations[0].tolist() == [0, 1, -1]


def test_truth_and_features_join_an_export(tmp_path):
    (tmp_path / "truth.csv").write_text("item,truth\ni1,dog\ni2,cat\n")
    (tmp_path / "x.csv").write_text("item,size,weight\n" + "".join(f"{item},{n},2\n" for n, item in enumerate(SAID)))
    data = read(tmp_path, "p.jsonl", prodigy(), truth=tmp_path / "truth.csv", features=tmp_path / "x.csv")
    assert data.y.tolist() == [1, 0, -1, -1]
    assert data.features == ("size", "weight")
    assert data.x[:, 0].tolist() == [0, 1, 2, 3]


def test_all_files_say_the_same():
    assert len(each()) == sum(len(said) for said in WITHOUT_ABSTENTIONS.values()) + 1


def test_times_of_mechanical_turk(tmp_path):
    rows = [
        {"HITId": "h", "WorkerId": "w", "SubmitTime": time, "Input.a": "i", "Answer.q": label}
        for time, label in (("Tue May 07 10:00:00 PDT 2024", "cat"), ("Mon May 06 23:00:00 PST 2024", "dog"))
    ]
    data = read(tmp_path, "batch.csv", csv_of(rows), duplicates="newest")
    assert [data.classes[c] for c in data.annotations[0]] == ["cat"]


def test_columns_and_keyed_records_are_tables(tmp_path):
    columns = {"item": ["a", "a"], "annotator": ["x", "y"], "label": ["u", "v"]}
    assert read(tmp_path, "columns.json", json.dumps(columns).encode()).annotations.tolist() == [[0, 1]]
    keyed = {"a": {"annotator": "x", "label": "u"}, "b": {"annotator": "y", "label": "v"}}
    assert read(tmp_path, "keyed.json", json.dumps(keyed).encode()).annotations.tolist() == [[0, -1], [-1, 1]]
