"""Tables: what stands in them, beside the paper's values."""

from ml_collections import ConfigDict

from dc_jax.report.published import TABLE1, Value
from experiments import dd_comparison
from experiments.sweep import matrix, tables
from experiments.sweep.paper import TABLE2


def test_sets_of_dd_are_in_two_columns(tmp_path):
    config = ConfigDict({"datasets": {"mnist": {}}})
    own = {"accuracy_mean": 0.8, "accuracy_std": 0.1}
    common = {"accuracy_mean": 0.5, "accuracy_std": 0.2, "own_protocol": own}
    rows = [
        {"dataset": "mnist", "ipc": 10, "method": "dd", "result": common},
        {"dataset": "mnist", "ipc": 10, "method": "dc", "result": own},
        {"dataset": "mnist", "ipc": "all", "method": "whole", "result": own},
    ]
    assert dd_comparison.report(config, rows, tmp_path).splitlines()[:4] == [
        "| dataset | ipc | dd, own training | dd, common training | dc | whole |",
        "| --- | --- | --- | --- | --- | --- |",
        "| mnist | 10 | 80.0 ± 10.0 (79.5 ± 8.1) | 50.0 ± 20.0 "
        "| 80.0 ± 10.0 (93.9 ± 0.6) |  |",
        "| mnist | all |  |  |  | 80.0 ± 10.0 (99.5 ± 0.0) |",
    ]


def test_tables():
    result = {"accuracy_mean": 0.9149, "accuracy_std": 0.0051}
    rows = [
        {"dataset": "mnist", "ipc": 1, "method": "dc", "result": result},
        {"dataset": "mnist", "ipc": 10, "method": "random", "result": result},
    ]
    text = tables.pivot(
        rows,
        ("dataset", "ipc"),
        "method",
        lambda row: TABLE1[row["dataset"], row["ipc"], row["method"]],
    )
    assert text.splitlines() == [
        "| dataset | ipc | dc | random |",
        "| --- | --- | --- | --- |",
        "| mnist | 1 | 91.5 ± 0.5 (91.7 ± 0.5) |  |",
        "| mnist | 10 |  | 91.5 ± 0.5 (95.1 ± 0.9) |",
    ]
    one = result | {"num_experiments": 1, "num_evaluations": 1}
    assert tables.both(one, None) == "91.5"
    assert str(Value(3.5, 0.3, is_verified=False)) == "3.5 ± 0.3?"
    assert TABLE2["ConvNet", "ResNet18"] == Value(90.0, 0.8)


def test_a_matrix_says_what_it_was_tested_on(tmp_path):
    config = ConfigDict(
        {
            "dataset": "fashion_mnist",
            "run": {"dataset": {"validation": 2000}},
            "tables": {"t": (("a", "b", "set", "LeNet"), ("a", "c", "set", "MLP"))},
        }
    )
    row = {
        "set": "set",
        "tested with": "LeNet",
        "result": {"accuracy_mean": 0.5, "accuracy_std": 0.1},
    }
    text = matrix.report(config, [row], tmp_path, lambda *_: Value(60.0, 1.0))
    table, note = text.removeprefix("t\n\n").split("\n\n")
    assert table.splitlines() == [
        "| condensed with | b |",
        "| --- | --- |",
        "| a | 50.0 ± 10.0 (60.0 ± 1.0) |",
    ]
    assert note.endswith(
        "Ours are of fashion_mnist, the paper's of mnist. "
        "Ours are tested on 2000 images held out of the training set."
    )
    assert (tmp_path / "t.md").read_text() == f"{table}\n\n{note}\n"
    on_mnist = ConfigDict({"dataset": "mnist", "run": {}, "tables": config.tables})
    text = matrix.report(on_mnist, [row], tmp_path, lambda *_: None)
    assert "Ours" not in text
    making = [
        {"set": name, "result": {"iterations": number}}
        for name, number in (("set", 200), ("b", 50), ("c", 200))
    ]
    text = matrix.report(on_mnist, [row, *making], tmp_path, lambda *_: None)
    assert text.endswith("1000 in the paper: 200 (set, c); 50 (b).")
    text = matrix.report(on_mnist, [row, making[0]], tmp_path, lambda *_: None)
    assert text.endswith("1000 in the paper: 200.")
