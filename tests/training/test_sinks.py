"""Rows on disk, and how they are rewound."""

import json

from tensorboardX import SummaryWriter

from jaxrobust.training import JsonLines, TensorBoard


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_rewinds_to_the_restored_step(tmp_path):
    sink = JsonLines(tmp_path / "sub" / "m.jsonl")
    sink.rewind(0)
    for step in (2, 4, 6):
        sink.write(step, {"loss": step / 3})
    sink.close()
    with (tmp_path / "sub" / "m.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    again = JsonLines(tmp_path / "sub" / "m.jsonl")
    again.rewind(4)
    again.write(6, {"loss": 9.0})
    again.close()
    assert rows(tmp_path / "sub" / "m.jsonl") == [
        {"step": 2, "loss": 2 / 3},
        {"step": 4, "loss": 4 / 3},
        {"step": 6, "loss": 9.0},
    ]


def test_a_new_run_starts_an_empty_file(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n')
    sink = JsonLines(tmp_path / "m.jsonl")
    sink.rewind(0)
    sink.close()
    assert rows(tmp_path / "m.jsonl") == []


def test_rows_are_on_disk_at_once(tmp_path):
    sink = JsonLines(tmp_path / "m.jsonl")
    sink.write(1, {"a": 1.0})
    assert rows(tmp_path / "m.jsonl") == [{"step": 1, "a": 1.0}]
    sink.close()


def test_tensorboard_writes_events_and_purges_later_ones(tmp_path, monkeypatch):
    asked = []

    def writer(directory, purge_step):
        asked.append(purge_step)
        return SummaryWriter(directory, purge_step=purge_step)

    monkeypatch.setattr("tensorboardX.SummaryWriter", writer)
    sink = TensorBoard(tmp_path)
    sink.rewind(4)
    sink.write(6, {"loss": 0.25})
    sink.close()
    assert asked == [5]
    (events,) = tmp_path.iterdir()
    assert b"loss" in events.read_bytes()
