"""Golden of task scores: lm-evaluation-harness itself, on the shipped model in float32, over the questions in tasks/.

The questions are written into rows that the harness's own tasks read (arc_easy, winogrande, mmlu), so the prompts are the
harness's; `contexts`, whose contexts are scored as they are, has a task of its own. Kept are the log-likelihoods of the
choices, whether they predict the answer, and the scores.
"""

import csv
import hashlib
import json
import os
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_HOME=tempfile.mkdtemp())

import lm_eval
import numpy as np
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from golden_file import FOLDER, write_golden

MODEL = FOLDER.parent.parent / "demo" / "model"
TASKS = FOLDER / "tasks"
HARNESS_TASKS = Path(lm_eval.__file__).parent / "tasks"
# Choices nearer to each other than this would be told apart by rounding; there must be none.
CLOSEST = 0.01


def records(name):
    return [json.loads(line) for line in (TASKS / name / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def arc_row(question, choices, answer):
    labels = list("ABCDEFGH"[: len(choices)])
    index = choices.index(answer) if isinstance(answer, str) else answer
    return {"question": question, "choices": {"text": choices, "label": labels}, "answerKey": labels[index]}


def winogrande_row(record):
    """A sentence with a blank where its two beginnings part."""
    first, second = record["context_options"]
    shared = os.path.commonprefix([first, second])
    return {
        "sentence": f"{shared}_ {record['continuation']}",
        "option1": first[len(shared) :],
        "option2": second[len(shared) :],
        "answer": str(record["gold"] + 1),
    }


def mmlu_rows(path):
    """With a header and indices, or, as first published, without and with letters."""
    answers = {**{letter: index for index, letter in enumerate("ABCD")}, **{str(index): index for index in range(4)}}
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row[-1] != "answer"]
    return [{"question": row[0], "choices": row[1:5], "answer": answers[row[5]]} for row in rows]


def mmlu_task(subject):
    about = subject.replace("_", " ")
    description = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    return {**load_yaml(HARNESS_TASKS / "mmlu/default/_default_template_yaml"), "description": description}


def score(model, label, task, rows, examples=()):
    """Gives what `own_record` keeps of each row, and the scores of all."""
    with tempfile.TemporaryDirectory() as folder:
        splits = {"test": rows, **({"dev": examples} if examples else {})}
        files = {split: str(Path(folder) / f"{split}.jsonl") for split in splits}
        for split, content in splits.items():
            Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        config = {key: value for key, value in task.items() if not key.endswith("_split")}
        config.pop("dataset_name", None)
        config |= {
            "task": label,
            "tag": [],
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
        if examples:
            config["fewshot_split"] = "dev"
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=[config],
            num_fewshot=len(examples),
            bootstrap_iters=1,
            task_manager=TaskManager(include_defaults=False),
        )
    samples = sorted(results["samples"][label], key=lambda sample: sample["doc_id"])
    return [own_record(sample) for sample in samples], results["results"][label]


def own_record(sample):
    likelihoods = np.array([likelihood for likelihood, _ in sample["filtered_resps"]], dtype=np.float64)
    pairs = [tuple(pair) for pair in sample["arguments"]]
    best, second = np.sort(likelihoods)[::-1][:2]
    if best - second < CLOSEST:
        raise SystemExit(f"too close to call: {likelihoods} for {pairs}")
    return {
        "requests": [{"context": context, "continuation": continuation} for context, continuation in pairs],
        "logLikelihoods": likelihoods.round(6).tolist(),
        "acc": int(sample["acc"]),
        "accNorm": int(sample["acc_norm"]),
    }


model = HFLM(pretrained=str(MODEL), dtype="float32", device="cpu", batch_size=4)
arc_easy = load_yaml(HARNESS_TASKS / "arc/arc_easy.yaml")
winogrande = load_yaml(HARNESS_TASKS / "winogrande/default.yaml")
as_is = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
}
in_tasks = {
    "questions": (
        arc_easy,
        [arc_row(record["question"], record["choices"], record["answer"]) for record in records("questions")],
    ),
    "contexts": (as_is, records("contexts")),
    "queries": (
        arc_easy,
        [
            arc_row(record["query"].removeprefix("Question: "), record["choices"], record["gold"])
            for record in records("queries")
        ],
    ),
    "blanks": (winogrande, [winogrande_row(record) for record in records("blanks")]),
}
scores = {}
for label, (task, rows) in in_tasks.items():
    questions, totals = score(model, label, task, rows)
    scores[label] = {
        "questions": questions,
        "acc": totals["acc,none"],
        "accNorm": totals["acc_norm,none"],
        "accStderr": totals["acc_stderr,none"],
    }
# The harness has a task for each subject of MMLU; ours is one task over all questions.
mmlu = []
for path in sorted((TASKS / "mmlu/test").glob("*_test.csv")):
    subject = path.name.removesuffix("_test.csv")
    shown = TASKS / "mmlu/dev" / f"{subject}_dev.csv"
    examples = mmlu_rows(shown) if shown.exists() else ()
    mmlu += score(model, subject, mmlu_task(subject), mmlu_rows(path), examples)[0]
scores["mmlu"] = {"questions": mmlu}

write_golden("tasks", None, ["lm_eval", "transformers", "tokenizers", "torch"], {
    "modelSha256": hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest(),
    "tasks": scores,
})
