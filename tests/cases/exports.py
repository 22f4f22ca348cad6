"""What annotation tools export, small and made up: five items, three people, and what each file says."""

import io
import json
import zipfile

ANN, BO, CY = "ann", "bo", "cy"
# item -> person -> label; None: asked, and would not say
SAID = {
    "i1": {ANN: "cat", BO: "dog"},
    "i2": {ANN: "cat", BO: "cat", CY: "cat"},
    "i3": {BO: "dog", CY: None},
    "i4": {ANN: "dog", CY: "dog"},
}
ANNOTATIONS = [[0, 1, -1], [0, 0, 0], [-1, 1, -1], [1, -1, 1]]
ABSTAINED = (2, 2)  # i3, cy
PEOPLE = (ANN, BO, CY)
WITHOUT_ABSTENTIONS = {item: {p: a for p, a in said.items() if a} for item, said in SAID.items()}


def each():
    return [(item, person, label) for item, said in SAID.items() for person, label in said.items()]


def lines(rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def csv_of(rows):
    names = list(rows[0])
    quoted = [[str(value).replace('"', '""') for value in row.values()] for row in rows]
    table = [names, *([f'"{v}"' if set(v) & set(',"') else v for v in row] for row in quoted)]
    return "\n".join(",".join(row) for row in table).encode()


def label_studio():
    result = lambda label: [  # noqa: E731
        {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    ]
    people = {ANN: 1, BO: {"id": 2, "email": "bo"}, CY: {"id": 3, "email": "cy"}}
    tasks = [
        {
            "id": item,
            "data": {"image": f"s3://{item}.png"},
            "annotations": [
                {
                    "id": 100 + n,
                    "completed_by": {"id": 1, "email": "ann"} if p == ANN else people[p],
                    "was_cancelled": label is None,
                    "ground_truth": False,
                    "lead_time": 3.5,
                    "created_at": "2024-05-01T08:00:00Z",
                    "result": [] if label is None else result(label),
                }
                for n, (p, label) in enumerate(said.items())
            ],
            "predictions": [{"model_version": "m1", "score": 0.75, "result": result("cat")}] if item == "i1" else [],
        }
        for item, said in SAID.items()
    ]
    tasks[0]["annotations"].append(
        {"id": 900, "completed_by": 9, "was_cancelled": False, "ground_truth": True, "result": result("dog")}
    )
    return json.dumps(tasks).encode()


def label_studio_rows():
    return [
        {"annotation_id": 31 + n, "annotator": p, "created_at": f"2024-05-01T08:0{n}:00Z", "id": item, "lead_time": 3.1}
        | {"animal": label or "", "text": f"text of {item}", "updated_at": f"2024-05-01T08:0{n}:00Z"}
        for n, (item, p, label) in enumerate(each())
    ]


def zooniverse():
    return csv_of(
        [
            {"classification_id": 7 + n, "user_name": p, "user_id": "", "user_ip": "0a1b", "workflow_id": 12}
            | {"workflow_version": "1.1", "created_at": f"2024-05-01 08:00:0{n} UTC", "gold_standard": "", "expert": ""}
            | {"metadata": "{}", "annotations": json.dumps([{"task": "T0", "task_label": "What?", "value": label}])}
            | {"subject_data": json.dumps({item: {"retired": None}}), "subject_ids": item}
            for n, (item, p, label) in enumerate(each())
        ]
    )


def zooniverse_extractions():
    return csv_of(
        [
            {"classification_id": n, "user_name": p, "user_id": n, "workflow_id": 12, "task": "T0"}
            | {"created_at": "2024-05-01", "subject_id": item, "extractor": "question_extractor"}
            | {"data.cat": 1.0 if label == "cat" else "", "data.dog": 1.0 if label == "dog" else ""}
            for n, (item, p, label) in enumerate(each())
        ]
    )


def zooniverse_reductions():
    return csv_of(
        [
            {"subject_id": item, "workflow_id": 12, "task": "T0", "reducer": "question_reducer"}
            | {f"data.{c}": sum(label == c for label in said.values()) or "" for c in ("cat", "dog")}
            for item, said in SAID.items()
        ]
    )


def prodigy():
    return lines(
        {"text": item, "_input_hash": item, "_task_hash": f"{item}{n}", "options": [{"id": "cat"}, {"id": "dog"}]}
        | {"accept": [label] if label else [], "answer": "accept" if label else "ignore", "_view_id": "choice"}
        | {"_timestamp": 1700000000 + n, "_annotator_id": p}
        for n, (item, p, label) in enumerate(each())
    )


def prodigy_binary():
    """Decisions about one label: accept is "cat", as it were."""
    return lines(
        {"text": item, "_input_hash": item, "_task_hash": item, "label": "CAT", "_session_id": p}
        | {"answer": {"cat": "accept", "dog": "reject", None: "ignore"}[label]}
        for item, p, label in each()
    )


def doccano():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for person in PEOPLE:
            rows = [
                {"id": item, "text": item, "label": [said[person]] if said.get(person) else [], "Comments": []}
                for item, said in SAID.items()
            ]
            file.writestr(f"{person}.jsonl", lines(rows))
    return archive.getvalue()


def mturk():
    rows = [
        {"HITId": f"H{item}", "AssignmentId": n, "WorkerId": p, "AssignmentStatus": "Approved"}
        | {"SubmitTime": "Tue May 07 10:00:00 PDT 2024", "Input.image_url": item, "Answer.category.label": label}
        for n, (item, p, label) in enumerate(each())
        if label
    ]
    rejected = rows[0] | {"WorkerId": "spammer", "AssignmentStatus": "Rejected", "Answer.category.label": "dog"}
    return csv_of([*rows, rejected])


def mturk_answers():
    return csv_of(
        [
            {"HITId": item, "AssignmentId": n, "WorkerId": p, "AssignmentStatus": "Submitted", "Input.a": item}
            | {"Answer.taskAnswers": json.dumps([{"category": {"label": label}}])}
            for n, (item, p, label) in enumerate(each())
            if label
        ]
    )


def mturk_several():
    """Two items a task."""
    rows = []
    for first, second in (("i1", "i2"), ("i3", "i4")):
        for person in PEOPLE:
            said = [WITHOUT_ABSTENTIONS[item].get(person, "") for item in (first, second)]
            rows.append({"HITId": first, "WorkerId": person, "Input.item_1": first, "Input.item_2": second})
            rows[-1] |= {"Answer.Choice1": said[0], "Answer.Choice2": said[1]}
    return csv_of(rows)


def labelbox():
    return lines(
        {
            "data_row": {"id": f"cl{item}", "global_key": item, "row_data": "https://x"},
            "media_attributes": {},
            "projects": {
                "p1": {
                    "name": "animals",
                    "labels": [
                        {
                            "label_kind": "Default",
                            "id": f"{item}{p}",
                            "label_details": {"created_by": p, "created_at": "2024-05-01T08:00:00Z", "reviews": []},
                            "annotations": {
                                "objects": [],
                                "classifications": [
                                    {"name": "animal", "value": "animal", "radio_answer": {"name": a, "value": a}}
                                ]
                                if a
                                else [],
                            },
                        }
                        for p, a in said.items()
                    ],
                }
            },
        }
        for item, said in SAID.items()
    )


def argilla():
    return lines(
        {
            "id": item,
            "text": item,
            "animal": [
                {"user_id": p, "value": a, "status": "submitted" if a else "discarded"} for p, a in said.items()
            ],
        }
        for item, said in SAID.items()
    )


def argilla_two():
    return lines(
        {
            "id": item,
            "animal.responses": list(said.values()),
            "animal.responses.users": list(said),
            "animal.responses.status": ["submitted" if a else "discarded" for a in said.values()],
        }
        for item, said in SAID.items()
    )


def lists_of_people():
    return lines(
        {"id": item, "labels": list(said.values()), "annotator_ids": list(said)}
        for item, said in WITHOUT_ABSTENTIONS.items()
    )


def lewidi_two():
    return json.dumps(
        {
            item: {"text": item, "number of annotations": len(said), "annotations": ",".join(said.values())}
            | {
                "annotators": ",".join(said),
                "hard_label": "cat",
                "soft_label": {"cat": 0.5, "dog": 0.5},
                "split": "dev",
            }
            for item, said in WITHOUT_ABSTENTIONS.items()
        }
    ).encode()


def lewidi_three():
    return json.dumps({i: {"annotations": said, "split": "train"} for i, said in WITHOUT_ABSTENTIONS.items()}).encode()


def toloka():
    rows = [
        {"INPUT:image": item, "OUTPUT:result": label, "GOLDEN:result": "dog" if item == "i1" else "", "HINT:text": ""}
        | {"ASSIGNMENT:task_id": item, "ASSIGNMENT:worker_id": p, "ASSIGNMENT:status": "APPROVED"}
        | {"ASSIGNMENT:submitted": "2024-05-01T08:00:00"}
        for item, p, label in each()
        if label
    ]
    rejected = rows[0] | {"ASSIGNMENT:status": "REJECTED", "OUTPUT:result": "dog"}
    return csv_of([*rows, rejected]).replace(b",", b"\t")


def figure_eight():
    return csv_of(
        [
            {"_unit_id": item, "_created_at": "5/1/2024 08:00:00", "_golden": "false", "_id": n, "_tainted": "false"}
            | {"_trust": 0.9, "_worker_id": p, "animal": label, "orig__golden": ""}
            | {"animal_gold": "dog" if item == "i1" else "", "animal_gold_reason": ""}
            for n, (item, p, label) in enumerate(each())
            if label
        ]
    )


def popquorn():
    rated = {"cat": "1.0", "dog": "2.0"}
    about = {ANN: "woman,Asian,25-29", BO: "man,White,40-44", CY: "woman,White,60-64"}
    rows = ["instance_id,user_id,text,offensiveness,gender,race,age"]
    rows += [f"{item},{p},text of {item},{rated[a]},{about[p]}" for item, p, a in each() if a]
    return "\n".join(rows).encode()


def flat_lines():
    return lines({"file": item, "rater": p, "label": a} for item, p, a in each() if a)


ALL = [(item, person, label) for item, person, label in each() if label]
# name: (content, whether abstentions are in it, whether the truth of i1 is in it, options of the reader)
EXPORTS = {
    "ls.json": (label_studio, True, True),
    "ls_min.json": (lambda: json.dumps(label_studio_rows()).encode(), True, False),
    "ls.csv": (lambda: csv_of(label_studio_rows()), True, False),
    "zooniverse.csv": (zooniverse, True, False),
    "extractions.csv": (zooniverse_extractions, True, False),
    "prodigy.jsonl": (prodigy, True, False),
    "binary.jsonl": (prodigy_binary, True, False),
    "doccano.zip": (doccano, False, False),
    "batch.csv": (mturk, False, False),
    "answers.csv": (mturk_answers, False, False),
    "several.csv": (mturk_several, False, False),
    "labelbox.ndjson": (labelbox, True, False),
    "argilla.jsonl": (argilla, True, False),
    "argilla2.jsonl": (argilla_two, True, False),
    "lists.jsonl": (lists_of_people, False, False),
    "peerannot.json": (lambda: json.dumps(WITHOUT_ABSTENTIONS).encode(), False, False),
    "lewidi2.json": (lewidi_two, False, False),
    "lewidi3.json": (lewidi_three, False, False),
    "toloka.tsv": (toloka, False, True),
    "figure_eight.csv": (figure_eight, False, True),
    "popquorn.csv": (popquorn, False, False),
    "flat.jsonl": (flat_lines, False, False),
}
