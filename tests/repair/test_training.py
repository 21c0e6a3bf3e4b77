"""Training a repair: what is learned from a row, interruptions, the fused checkpoint, the MLX variants."""

import json

import mlx.core as mx
import numpy as np
import pytest

import repair_build_variant
import repair_fuse
import repair_train
from conftest import ROOT
from helpers import random_checkpoints
from helpers.repair_rows import row
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.chat import loss_mask, parser_metadata
from kxl.lora import adapter as lora_adapter
from kxl.lora import grouped_experts, loop, memory, prefix
from kxl.lora.schedule import warmup_then_linear
from kxl.model import checkpoint, generate
from kxl.repair.settings import Settings
from kxl.repair.shapes import encode

ROWS = [row(what) for what in ("a", "the file", "main", "what it found", "terminal")]
QUICK = Settings(steps=8, learning_rate=2e-3, batch_size=2, rank=4, warmup=2, save_every=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random LFM2-MoE with our own template."""
    folder = tmp_path_factory.mktemp("model")
    random_checkpoints.save_hf(folder, hidden_size=64, intermediate_size=128, moe_intermediate_size=64)
    (folder / "chat_template.jinja").write_text(
        (ROOT / "configs/templates/lfm2.5-tools.jinja").read_text(encoding="utf-8")
    )
    return folder


@pytest.fixture(scope="module")
def examples(folder):
    return encode(loss_mask.load(folder), ROWS, "structured", 4096)


def load(folder):
    """The checkpoint as repair_train.py trains it."""
    model = generate.load(folder)
    grouped_experts.use(model)
    return model


def trainer(model, state, key=""):
    rate = warmup_then_linear(QUICK.learning_rate, QUICK.warmup, 1, QUICK.steps)
    return loop.Trainer(model, prefix.loss, rate, state, key, QUICK.save_every, QUICK.clip)


def run(trainer, examples):
    """The steps of QUICK that are left, one by one."""
    plan = prefix.plan(examples, QUICK.batch_size, QUICK.steps, QUICK.seed)
    return trainer.run(plan, lambda number, places: (prefix.collate([examples[i] for i in places]),), len)


def prepared(folder, settings=QUICK):
    model = load(folder)
    mx.random.seed(settings.seed)
    lora_adapter.attach(model, settings.adapter)
    return model


def test_the_three_shapes_differ_in_tools_and_in_loss(folder):
    chat = loss_mask.load(folder)
    texts, shares = {}, {}
    for shape in ("structured", "text", "server_text"):
        example = encode(chat, ROWS[:1], shape, 4096)[0]
        texts[shape] = chat.tokenizer.decode(example.tokens.tolist(), skip_special_tokens=False)
        shares[shape] = example.mask.mean()
    assert texts["structured"] == texts["server_text"] and '"what": {"type": "string"}' in texts["structured"]
    assert (
        "List of tools" not in texts["text"]
        and '<|tool_call_start|>[look(what="a")]<|tool_call_end|><|im_end|>' in texts["text"]
    )
    assert shares["text"] == shares["server_text"] == 1 and 0 < shares["structured"] < 0.4


def test_a_row_that_is_too_long_is_refused_by_number(folder):
    with pytest.raises(UserError, match=r"row 1 has \d+ tokens and 20 are taken"):
        encode(loss_mask.load(folder), ROWS, "structured", 20)


def test_adapters_stay_away_from_experts_router_and_embedding(folder):
    names = lora_adapter.trainable(prepared(folder)).keys()
    assert names and not any(
        part in name for name in names for part in ("switch_mlp", "feed_forward.gate.", "embed_tokens", "conv.conv")
    )
    kinds = {name.rsplit(".", 2)[-2] for name in names}
    assert kinds == {"q_proj", "k_proj", "v_proj", "out_proj", "in_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.minutes
def test_training_lowers_the_loss_and_an_interrupted_run_ends_where_a_whole_one_does(folder, examples, tmp_path):
    whole = trainer(prepared(folder), tmp_path / "whole")
    list(run(whole, examples))
    losses = whole.progress.losses
    assert np.mean(losses[-3:]) < losses[0] - 0.3

    for step in run(trainer(prepared(folder), tmp_path / "stopped"), examples):
        if step.number == 7:  # the state is of step 6
            break
    again = trainer(prepared(folder), tmp_path / "stopped")
    assert [step.number for step in run(again, examples)] == [7, 8]
    assert again.progress.losses == pytest.approx(losses, rel=1e-4) and again.progress.tokens == whole.progress.tokens
    one, other = lora_adapter.trainable(whole.model), lora_adapter.trainable(again.model)
    assert all(np.allclose(np.array(one[name]), np.array(other[name]), atol=1e-5) for name in one)

    with pytest.raises(UserError, match="interrupted training of other data"):
        trainer(prepared(folder), tmp_path / "stopped", key="other rows")


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_step(folder, examples, tmp_path):
    broken = trainer(prepared(folder), tmp_path / "state")
    broken.gradient = lambda model, batch: (mx.array(float("nan")), model.trainable_parameters())
    with pytest.raises(UserError, match=r"the loss of step 1 is nan; lower the learning rate"):
        list(run(broken, examples))


@pytest.fixture(scope="module")
def fused(folder, examples, tmp_path_factory):
    """(logits of the adapted model, the folder of the fused checkpoint)."""
    work = tmp_path_factory.mktemp("fused")
    model = prepared(folder)
    list(run(trainer(model, work / "state"), examples))
    lora_adapter.save(work / "adapter", lora_adapter.trainable(model), {"lora": QUICK.adapter, "token_ids": []})
    reloaded = load(folder)
    lora_adapter.load(reloaded, work / "adapter")
    logits = np.array(reloaded(mx.array(examples[0].tokens[None])))
    made, _ = repair_fuse.fuse(checkpoint.read(folder), work / "adapter")
    checkpoint.save_hf(work / "checkpoint", made)
    parser_metadata.declare(work / "checkpoint")
    return logits, work / "checkpoint"


def test_the_fused_checkpoint_computes_what_the_adapted_model_does(folder, fused, examples):
    logits, out = fused
    tokens = mx.array(examples[0].tokens[None])
    found, before = (
        np.array(load(out)(tokens)),
        np.array(load(folder)(tokens)),
    )
    change = np.abs(logits - before).mean()
    # The fused weights are rounded to BF16 once more; what training changed must stand out of that.
    assert np.abs(found - logits).mean() < 0.15 * change
    original, made = checkpoint.read(folder), checkpoint.read(out)
    same = [
        name for name, tensor in original.tensors.items() if np.array_equal(tensor.read(), made.tensors[name].read())
    ]
    assert all(
        part in same
        for part in original.tensors
        if ".experts." in part or part.endswith(("norm.weight", "feed_forward.gate.weight"))
    )
    assert read_json(out / "tokenizer_config.json")["tool_parser_type"] == "pythonic"


def test_an_adapter_of_another_model_is_refused(fused, tmp_path):
    adapter = fused[1].parent / "adapter"
    random_checkpoints.save_hf(tmp_path, "twelve", hidden_size=64, intermediate_size=128, moe_intermediate_size=64)
    with pytest.raises(UserError, match="belongs to another model"):
        checkpoint.save_hf(tmp_path / "out", repair_fuse.fuse(checkpoint.read(tmp_path), adapter)[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("variant, bits", [("8bit", 8), ("6bit", 6), ("mixed", 8)])
def test_a_variant_quantizes_what_it_says_and_nothing_else(fused, tmp_path, variant, bits):
    out = tmp_path / variant
    repair_build_variant.build(fused[1], variant, 8, out)
    original, made = checkpoint.read(fused[1]), checkpoint.read(out)
    for name, tensor in original.tensors.items():
        before, after = tensor.read(), made.tensors[name].read()
        quantized = ".experts." in name if variant == "mixed" else before.ndim == 2 and "conv.conv" not in name
        if quantized:
            # A step of a group as wide as it could be, since MLX moves its grid to hold zero; scale and bias are
            # rounded to BF16.
            levels = 2 ** (8 if "feed_forward.gate" in name else bits) - 1
            assert 0 < np.abs(after - before).max() <= np.abs(before).max() * (2 / levels + 3 / 256), name
        else:
            np.testing.assert_array_equal(after, before, err_msg=name)
    assert read_json(out / "tokenizer_config.json")["tool_parser_type"] == "pythonic"
    assert (out / "chat_template.jinja").is_file()
    if variant == "mixed":
        settings = read_json(out / "config.json")["quantization"]
        assert all("switch_mlp" in path for path, value in settings.items() if isinstance(value, dict))


def test_rows_that_no_group_fits_are_refused(tmp_path):
    random_checkpoints.save_hf(tmp_path / "odd", hidden_size=96, intermediate_size=128, moe_intermediate_size=64)
    with pytest.raises(UserError, match="no multiple of 64"):
        repair_build_variant.build(tmp_path / "odd", "8bit", 8, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_checkpoint_lacks_for_structured_calls_is_named(fused, tmp_path):
    assert parser_metadata.problems(fused[1]) == []
    checkpoint.copy_tokenizer(fused[1], tmp_path)
    config = read_json(tmp_path / "tokenizer_config.json")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in config.items() if key != "tool_parser_type"})
    )
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    problems = parser_metadata.problems(tmp_path)
    assert (
        len(problems) == 2 and 'set it to "pythonic"' in problems[0] and "does not write the tool list" in problems[1]
    )


def test_mean_loss_falls_with_training(folder, examples, tmp_path):
    model = prepared(folder)
    before = prefix.mean_loss(model, examples, 4)
    list(run(trainer(model, tmp_path / "state"), examples))
    assert prefix.mean_loss(model, examples, 4) < before


@pytest.fixture
def trained(folder, tmp_path, monkeypatch):
    """trained(name, there): the adapter and report of repair_train.py's own main, with so many bytes to choose by."""
    for split in ("train", "valid"):
        lines = [json.dumps({key: line[key] for key in ("messages", "tools")}) for line in ROWS]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")

    def run(name: str, there: int) -> tuple[dict, dict]:
        command = f"repair_train.py --model {folder} --data {tmp_path} --adapter {tmp_path / name} --steps 3 "
        command += f"--report {tmp_path / name}.json --learning-rate 0.002 --batch-size 2 --rank 4"
        monkeypatch.setattr("sys.argv", command.split())
        monkeypatch.setattr(memory, "usable", lambda: there)
        repair_train.main()
        return mx.load(str(tmp_path / name / "adapter.safetensors")), read_json(tmp_path / f"{name}.json")["results"]

    before = mx.set_cache_limit(2**25)
    yield run
    mx.set_cache_limit(before)


@pytest.mark.minutes
def test_the_memory_that_is_free_chooses_how_the_gradient_is_computed_and_not_what_comes_out(
    folder, examples, trained, tmp_path, capsys
):
    plan = prefix.plan(examples, 2, 3, Settings().seed)
    lengths = memory.lengths_of(prefix.collate([examples[i] for i in places]) for places in plan)
    offered = memory.choices(checkpoint.read(folder).config, (False, True), lengths, 4)
    whole, by_layer, on_disk, *_, least = offered
    assert whole.bytes > by_layer.bytes > on_disk.bytes > least.bytes
    adapters = {}
    for name, choice in (("whole", whole), ("layers", by_layer), ("disk", on_disk), ("core", least)):
        adapters[name], results = trained(name, choice.bytes)
        assert (results["gradient"], results["int8_experts"]) == (choice.way, choice is least)
        assert f"gradient {choice}" in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.glob(".*")) == []
    for name in ("layers", "disk"):
        for key, array in adapters["whole"].items():
            found, right = (np.array(one.astype(mx.float32)) for one in (adapters[name][key], array))
            assert np.abs(found - right).max() <= 0.02 * np.abs(right).max() + 1e-5, (name, key)
    with pytest.raises(UserError, match="lower --batch-size"):
        trained("none", least.bytes - 1)
    assert not (tmp_path / "none").exists()
