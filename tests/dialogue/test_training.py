"""Training by a plan: a run that is stopped comes to the same weights, it learns, and it needs no JSON Schema."""

import subprocess
import sys

import pytest
import torch
from tokenizers import AddedToken, Tokenizer

from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.dialogue import trainer as training
from kxl.dialogue import wordings
from kxl.dialogue.feed import THINK, THINK_END, Encoder, Feed
from kxl.eval import contamination

pytestmark = pytest.mark.minutes

ROWS = {"call": 0.6, "chat": 0.2, "asking": 0.2}
# Weighted mean cross-entropy of the first 20 steps of small_plan, in nats; ln(4318), of knowing nothing, is 8.370.
LOSSES = """8.399 8.376 8.370 8.361 8.369 8.361 8.374 8.288 8.327 8.265 8.137 8.210 8.125 8.114 8.058 8.040 8.024 8.031
8.000 7.917""".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The tokenizer of models/tiny with tokens for thoughts."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made = Tokenizer.from_file(str(ROOT / "models/tiny/tokenizer.json"))
    made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in (THINK, THINK_END)])
    made.save(str(path))
    return path


def small_plan(encoder: Encoder) -> dict:
    plan = read_json(ROOT / "configs/tiny.plan.json")
    phase = {"tokens": 500, "longest": 160, "rough": 0.3, "contexts": {"bare": 1.0}, "rows": ROWS}
    return {
        **plan,
        "model": {
            **plan["model"],
            "vocab_size": encoder.tokenizer.get_vocab_size(),
            "hidden_size": 32,
            "intermediate_size": 48,
            "moe_intermediate_size": 24,
            "num_hidden_layers": 4,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
        },
        "optimizer": {**plan["optimizer"], "warmup": 4},
        "average": {"last": 8, "decay": 0.8},
        "validation": {"every": 10, "contexts": ["bare"], "tokens": 300, "pools": 1, "rows": ROWS},
        "phases": [
            {**phase, "name": "first", "steps": 12, "rate": [1.0, 1.0]},
            {**phase, "name": "last", "steps": 8, "rate": [1.0, 0.0]},
        ],
    }


def train(tokenizer, state, stop_after=None, until=None) -> training.Trainer:
    encoder = Encoder(tokenizer, "keep")
    plan, device = small_plan(encoder), torch.device("cpu")
    with Feed(plan, tokenizer, training.saved_step(state), 1) as feed:
        trainer = training.Trainer(plan, device, state)
        validation = training.Validation(plan, encoder, device, 1)
        trainer.run(feed, validation, stop_after, lambda line: None, until)
    return trainer


def test_a_run_that_was_stopped_twice_comes_to_the_same_bits(tokenizer, tmp_path):
    whole = train(tokenizer, tmp_path / "whole.pt")
    state = tmp_path / "stopped.pt"
    assert train(tokenizer, state, stop_after=0).step == 1
    train(tokenizer, state, until=15).save()  # in the part that is averaged
    assert training.saved_step(state) == 15
    stopped = train(tokenizer, state)
    assert stopped.step == whole.step == 20
    assert stopped.tokens == whole.tokens
    for run in (lambda trainer: trainer.model, lambda trainer: trainer.finished()):
        wanted = run(whole).state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in run(stopped).state_dict().items())
    assert [entry["exact"] for entry in stopped.history] == [entry["exact"] for entry in whole.history]


def test_a_small_plan_learns_as_it_did(tokenizer, tmp_path):
    encoder = Encoder(tokenizer, "keep")
    plan = small_plan(encoder)
    trainer = training.Trainer(plan, torch.device("cpu"), tmp_path / "state.pt")
    with Feed(plan, tokenizer, 0, 1) as feed:
        losses = [trainer.train_step(feed.batch(step))[0].item() for step in range(20)]
    assert losses == pytest.approx([float(loss) for loss in LOSSES], abs=0.02)


def test_a_state_of_another_plan_is_refused(tokenizer, tmp_path):
    plan = small_plan(Encoder(tokenizer, "keep"))
    state = tmp_path / "state.pt"
    training.Trainer(plan, torch.device("cpu"), state).save()
    with pytest.raises(UserError, match="another plan.*delete it"):
        training.Trainer({**plan, "seed": 2}, torch.device("cpu"), state)


def test_training_needs_no_json_schema():
    program = (
        "import sys; sys.path.insert(0, 'scripts'); sys.modules['jsonschema'] = None\n"
        "import tiny_train_plan\n"
        "from kxl.dialogue import wordings\n"
        "assert wordings.forms('chat', False)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-500:]


def test_wordings_are_kept_apart_from_every_eval_prompt_that_the_repository_has():
    ours, all_of_them = wordings.prompts(), contamination.everything()
    assert ours.exact.keys() == all_of_them.exact.keys()
    assert ours.core.keys() == all_of_them.core.keys()
    assert ours.runs.keys() == all_of_them.runs.keys()
    assert [pattern for pattern, _ in ours.drawn] == [pattern for pattern, _ in all_of_them.drawn]
