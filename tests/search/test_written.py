"""A searched policy is an ordinary policy file, of one model's shape, within its budget."""

import pytest
from gguf import GGMLQuantizationType as Type

import search_policy
from kxl.base.cli import UserError
from kxl.base.files import ROOT, write_json
from kxl.quant import policy, sparse
from kxl.search import estimate, memory, rivals, sizes, table, written
from kxl.search.allocate import Table, solve


def model(**changes) -> list[policy.Tensor]:
    """The tensors of the tiny model's config, or of one that differs from it."""
    config = {**sparse.read_shapes(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), **changes}
    return sparse.tensors_of(config)


def estimated(tensors: list) -> Table:
    priors = estimate.read_priors()
    cells = {}
    for tensor in filter(policy.quantizable, tensors):
        row = estimate.cells_of(tensor, priors["errors"], priors, 24)
        cells[tensor.name] = {Type[kind]: cell for kind, cell in row.items()}
    return Table(cells)


@pytest.fixture(scope="module")
def large():
    tensors = model()
    return tensors, estimated(tensors)


ABOUT = {"model": "some-model", "bytes": 1, "budget": 2, "source": "a table", "choice": ["Chosen by hand."]}


@pytest.mark.parametrize("gib", [8.6, 7.1, 6.5, 5.7, 4.6, 3.5])
def test_at_8b_a_policy_fills_its_budget_and_is_read_back_as_it_was_found(large, gib, tmp_path):
    tensors, known = large
    budget = int(gib * 2**30) - sizes.kept_bytes(tensors)
    types = solve(known, budget)
    path = written.write(tmp_path / "plan.json", "mine", types, tensors, known, ABOUT)
    loaded = policy.load("mine", tmp_path / "plan.json")
    assert policy.lint(loaded, tensors) == []
    found = policy.assign(loaded, tensors)
    assert {name: found[name] for name in types} == types
    assert budget * 0.995 < known.bytes(types) <= budget
    rules = [line for line in path.read_text().splitlines() if line.startswith("^")]
    assert all("% of the damage" in line for line in rules) and len(rules) < len(types)


def test_a_policy_for_a_model_of_another_shape_is_refused_by_name(large, tmp_path):
    tensors, known = large
    types = solve(known, int(5.7 * 2**30))
    written.write(tmp_path / "plan.json", "mine", types, tensors, known, ABOUT)
    other = model(num_experts=16)
    problems = policy.lint(policy.load("mine", tmp_path / "plan.json"), other)
    assert len(problems) == 1
    assert "was searched for some-model" in problems[0] and "make policy" in problems[0]
    with pytest.raises(UserError, match="was searched for some-model"):
        policy.assign(policy.load("mine", tmp_path / "plan.json"), other)


def test_a_width_that_k_quants_do_not_fit_gets_a_policy_of_types_that_do(tmp_path):
    tensors = model(hidden_size=192 * 8, moe_intermediate_size=288, intermediate_size=480)
    known = estimated(tensors)
    least = sum(min(cell["bytes"] for cell in row.values()) for row in known.cells.values())
    types = solve(known, int(least * 1.2))
    written.write(tmp_path / "plan.json", "narrow", types, tensors, known, ABOUT)
    assert policy.lint(policy.load("narrow", tmp_path / "plan.json"), tensors) == []
    assert {types[t.name] for t in tensors if t.name.endswith("ffn_down_exps.weight")} <= set(table.fitting(288))


@pytest.mark.parametrize("name", ["../x", "Q4", "", "q4 x", "4q"])
def test_a_name_that_is_no_files_name_is_refused(large, name, tmp_path):
    tensors, known = large
    with pytest.raises(UserError, match="NAME="):
        written.write(tmp_path / "plan.json", name, {}, tensors, known, ABOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text, count",
    [("5.7", 6120328396), ("5.7GiB", 6120328396), ("8MiB", 8388608), ("4.5bpw", 100 + 4500), ("7 m", 7340032)],
)
def test_a_budget_is_read_with_its_unit(text, count):
    assert written.budget_bytes(text, parameters=8000, header=100) == count


@pytest.mark.parametrize("text", ["", "much", "5.7KB", "-3", "5,7", "9" * 400, "9" * 400 + "bpw"])
def test_a_budget_that_is_none_says_how_to_write_it(text):
    with pytest.raises(UserError, match="write it as 5.7GiB"):
        written.budget_bytes(text, 1, 1)


def test_rivals_stay_within_the_budget_and_come_near_it(large):
    tensors, known = large
    shapes = {t.name: t.shape for t in tensors}
    whole = {
        kind: {t.name: kind for t in tensors if policy.quantizable(t)} for kind in (Type.Q8_0, Type.Q6_K, Type.Q4_K)
    }
    for gib in (7.5, 5.5):
        budget = int(gib * 2**30)
        for types in (
            rivals.stock({k.name: v for k, v in whole.items()}, tensors, budget),
            rivals.edges(tensors, budget),
        ):
            assert budget * 0.995 < rivals.size_of(types, shapes) <= budget
    assert rivals.stock({"Q4_K": whole[Type.Q4_K]}, tensors, 2**30) is None


def test_edges_get_at_least_the_bits_of_the_middle(large):
    tensors, _ = large
    types = rivals.edges(tensors, int(5.5 * 2**30))

    def bits(block: int) -> float:
        mine = [t for t in tensors if policy.quantizable(t) and t.name.startswith(f"blk.{block}.")]
        return sum(policy.nbytes(t.shape, types[t.name]) for t in mine) / sum(
            policy.nbytes(t.shape, Type.I8) for t in mine
        )

    assert bits(0) > bits(12) and bits(23) > bits(12)


def test_memory_of_the_tiny_model_is_what_llama_server_said_of_it():
    """llama-server's own log at 65,536 and 8,192 tokens, and of SmolLM2-135M at 8,192."""
    tiny = {"hidden": 256, "vocabulary": 4316, "key_width": 384, "value_width": 384, "conv_layers": 5, "conv_cache": 3}
    for context, cache, compute in ((65536, 96.0, 70.0), (8192, 12.0, 14.0)):
        found = memory.needed(tiny, context, file=0)
        assert found.cache / 2**20 == cache and found.compute / 2**20 == pytest.approx(compute, abs=0.02)
    smol = {
        "hidden": 576,
        "vocabulary": 49152,
        "key_width": 5760,
        "value_width": 5760,
        "conv_layers": 0,
        "conv_cache": 1,
    }
    found = memory.needed(smol, 8192, file=0)
    assert found.cache / 2**20 == 180.0 and found.compute / 2**20 == pytest.approx(21.51, abs=0.02)
    assert found.output / 2**20 == pytest.approx(0.19, abs=0.01)


def test_priors_that_are_none_are_named(tmp_path):
    for odd in ({}, {"errors": {"Q8_0": 1}, "factors": {"output": {}}}, {"errors": {"Q8_0": "x"}, "factors": {}}):
        write_json(tmp_path / "priors.json", odd)
        with pytest.raises(UserError, match="priors.json: .*search_fit_priors.py"):
            estimate.read_priors(tmp_path / "priors.json")


def test_a_plan_of_several_policies_is_not_half_there_where_one_cannot_be_made(tmp_path, monkeypatch):
    """The plan at whose bytes they are made asks for less than the smallest types take."""
    report = {"results": {"tensors": {}}}
    tensors = sparse.tensors_of(sparse.read_shapes(ROOT / "models/tiny/config.json"))
    for tensor in filter(policy.quantizable, tensors):
        cells = {"Q8_0": {"bytes": policy.nbytes(tensor.shape, Type.Q8_0), "damage": 1e-3}}
        report["results"]["tensors"][tensor.name] = {"types": cells}
    write_json(tmp_path / "table.json", report)
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path / "made")
    for plan, said in (("plan.json", "take"), ("", "take|names a folder")):
        words = ["x", "--table", tmp_path / "table.json", "--shapes", ROOT / "models/tiny/config.json", "--like",
                 ROOT / "gguf/export_plan.json", "--plan", plan]  # fmt: skip
        monkeypatch.setattr("sys.argv", list(map(str, words)))
        with pytest.raises(UserError, match=said):
            search_policy.main()
        assert not list((tmp_path / "made").iterdir())
