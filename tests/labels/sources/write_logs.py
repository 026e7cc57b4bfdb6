"""Write the logs in `tests/labels/sources/logs` anew, with both harnesses and models of the zoo.

    pip install --group logs
    python tests/labels/sources/write_logs.py

Two models answer 80 questions of the skills benchmark in lm-evaluation-harness, and twelve of them,
twice, in Inspect. What the harness says of the machine is taken out.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from prefill_router.extraction.sources import ZOO
from prefill_router.zoo.skills import benchmark

LOGS = Path(__file__).parent / "logs"
MODELS = ("gpt2-a", "llama-b")
TASK = {
    "task": "skills",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "skills.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{reference}}",
    "generation_kwargs": {"until": ["<eos>"], "max_gen_toks": 48, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [
        {
            "name": "after-answer",
            "filter": [
                {"function": "regex", "regex_pattern": "([^:]*)$"},
                {"function": "take_first"},
            ],
        }
    ],
    "metadata": {"version": 1.0},
}
INSPECT = """
from inspect_ai import Task, eval
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.model import get_model
from inspect_ai.scorer import match
from inspect_ai.solver import generate
import sys

fields = FieldSpec(input="question", target="reference", id="query_id")
task = Task(json_dataset("skills.jsonl", fields), solver=generate(), scorer=match(), epochs=2,
            name="skills", version=1)
for name in sys.argv[2:]:
    model = get_model(f"hf/{name}", model_path=name, device="cpu")
    log, = eval(task, model=model, log_dir=sys.argv[1], limit=12, max_tokens=48, display="none")
    assert log.status == "success", log.error
"""


def write(directory, n_questions=80, models=MODELS):
    """Let models answer, and leave the logs in ``directory/lm_eval`` and ``directory/inspect``."""
    questions = benchmark()
    questions = questions[questions["benchmark"].isin(["roman", "most", "largest", "counting"])]
    columns = ["query_id", "question", "reference"]
    questions[columns].head(n_questions).to_json(
        directory / "skills.jsonl", orient="records", lines=True
    )
    (directory / "skills.yaml").write_text(yaml.safe_dump(TASK))
    for name in models:
        shutil.copytree(ZOO / name, directory / name)
        run = ["-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={name}"]
        run += ["--tasks", "skills", "--include_path", ".", "--device", "cpu", "--batch_size", "16"]
        run += ["--apply_chat_template", "--output_path", "lm_eval", "--log_samples"]
        call(directory, *run)
    call(directory, "-c", INSPECT, "inspect", *models)


def call(directory, *arguments):
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(directory / "cache")}
    subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=os.environ | offline, check=True
    )


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        shutil.rmtree(LOGS, ignore_errors=True)
        for harness in ("lm_eval", "inspect"):
            shutil.copytree(Path(name) / harness, LOGS / harness)
    for path in LOGS.rglob("results_*.json"):
        about = json.loads(path.read_text())
        path.write_text(json.dumps({**about, "pretty_env_info": "", "git_hash": None}, indent=1))
