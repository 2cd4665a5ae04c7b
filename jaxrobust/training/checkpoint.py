"""Checkpoints: written in the background, each complete or absent, the newest few and the best one kept.

A folder holds `config.json` and one folder per step, written by orbax: `weights` (params, stats and their
average, readable alone), `rest` (optimizer, objective), `progress` (validation metrics; rows not yet logged)
and `config`.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrobust import _validate
from jaxrobust.training.runtime import agree
from jaxrobust.training.state import TrainState
from jaxrobust.types import PyTree

_log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
_SCORE = "score"
_SET_ASIDE = "unreadable"


class Restored(NamedTuple):
    """A resumed run: the state (NumPy leaves) and the rows of metrics since the last logged step."""

    state: TrainState
    pending: list[dict[str, float]]


class Weights(NamedTuple):
    """What evaluation and `init_from` need of a run."""

    params: PyTree
    stats: PyTree
    step: int


class Checkpoints:
    """The checkpoints of one run.

    With several processes, process 0 writes and reads, and sends what it read to the others, so that no
    shared file system is needed; every process must make the same calls.

    Args:
        directory: made if absent.
        config: the resolved configuration as JSON values, saved beside; None to save and compare nothing.
        ignored: paths of fields, like `experiment.note`, that may differ from those of the checkpoints.
        keep: how many of the newest checkpoints stay, >= 1; the best stays besides.
        save_every: a checkpoint every so many steps; 0 for validations, interruption and the end only.
        best_metric: the validation metric by which the best is known, e.g. "accuracy"; None for no best.
        lower_is_better: for a metric that is a loss.

    Raises:
        ValueError: if the folder holds checkpoints of another configuration, naming the fields that differ.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(folder, config={"seed": 0}, keep=3, save_every=100)
    ...     print(checkpoints.latest_step())
    ...     checkpoints.close()
    None
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        config: Mapping[str, Any] | None = None,
        ignored: Sequence[str] = (),
        keep: int = 2,
        save_every: int = 0,
        best_metric: str | None = None,
        lower_is_better: bool = False,
    ):
        _validate.at_least("keep", keep, 1)
        _validate.at_least("save_every", save_every, 0)
        self.directory = Path(directory).absolute()
        self.save_every = save_every
        self._best_metric = best_metric
        self._sign = -1.0 if lower_is_better else 1.0
        self._config = None if config is None else json.loads(json.dumps(config))
        self._ignored = tuple(ignored)
        self._manager = _open(self.directory, keep) if jax.process_index() == 0 else None
        self._check_config()

    def save(
        self,
        state: TrainState,
        *,
        pending: Sequence[Mapping[str, float]] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts writing; returns once the previous checkpoint is complete.

        Args:
            state: NumPy leaves, see `Runtime.fetch`.
            pending: rows of metrics not yet logged.
            metrics: of the validation at this step; needed by `best_metric`.
        """
        step = int(state.step)
        if self._manager is None or step in self._manager.all_steps():
            return
        weights = {"params": state.params, "stats": state.stats}
        if state.ema:
            weights |= {"ema_params": state.ema[0], "ema_stats": state.ema[1]}
        about: dict[str, Any] = {"pending": [dict(row) for row in pending]}
        if metrics is not None:
            about["metrics"] = {name: float(value) for name, value in metrics.items()}
            if self._best_metric is not None:
                best = _validate.member("validation metric", self._best_metric, about["metrics"])
                # NaN compares as neither better nor worse, so it would stay the best for ever.
                if math.isfinite(best):
                    about[_SCORE] = self._sign * best
        items = {
            "weights": ocp.args.StandardSave(weights),
            "rest": ocp.args.StandardSave(_flat((state.step, state.opt_state, state.obj_state))),
            "progress": ocp.args.JsonSave(about),
            "config": ocp.args.JsonSave({"config": self._config}),
        }
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, like: TrainState, *, among: Collection[int] | None = None) -> Restored | None:
        """The newest complete checkpoint, or None if there is none.

        A checkpoint that cannot be read is set aside, with a warning, and the one before it is taken. Where
        none can be read, which tells of the machine and not of the files, nothing is moved.

        Args:
            like: a state of the structure wanted, e.g. the initial one.
            among: steps to choose from; None for all.

        Raises:
            ValueError: if no checkpoint there can be read, or the newest does not fit `like`.
        """
        if jax.process_count() == 1:
            return self._read_newest(like, among)
        found, refusal = None, None
        if self._manager is not None:
            try:
                found = self._read_newest(like, among)
            except ValueError as error:
                refusal = error
        # The others wait in `agree`, so process 0 must reach it even where it has nothing to give.
        if agree(np.array(refusal is not None)):
            raise refusal or ValueError(f"Process 0 could not read the checkpoints in {self.directory}.")
        if not agree(np.array(found is not None)):
            return None
        state = agree(found.state if found else jax.tree.map(np.asarray, like))
        text = np.frombuffer(json.dumps(found.pending if found else []).encode(), np.uint8)
        size = int(agree(np.array(text.size)))
        text = agree(text if found else np.zeros(size, np.uint8))
        return Restored(state, json.loads(text.tobytes().decode()))

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints (known to process 0 only)."""
        return sorted(self._manager.all_steps()) if self._manager is not None else []

    def remove_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, for a run that is to go on from this one."""
        for later in self.steps():
            if later > step and self._manager is not None:
                self._manager.delete(later)

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint (known to process 0 only)."""
        return self._manager.latest_step() if self._manager is not None else None

    def close(self) -> None:
        """Waits until everything is on disk."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()

    def _check_config(self) -> None:
        """Refuses another run's checkpoints, on every process; writes a configuration where there is none."""
        message = ""
        if self._manager is not None and self._config is not None:
            path = self.directory / CONFIG_FILE
            if path.exists() and self._manager.all_steps():
                old = json.loads(path.read_text(encoding="utf-8"))
                differing = _differences(old, self._config, self._ignored)
                if differing:
                    message = (
                        f"{self.directory} holds checkpoints of another configuration. Differing: "
                        f"{'; '.join(differing)}. Undo these changes to resume, or train into another folder."
                    )
            else:
                fresh = path.with_suffix(".new")
                fresh.write_text(json.dumps(self._config, indent=2) + "\n", encoding="utf-8")
                os.replace(fresh, path)
        if agree(np.array(bool(message))):
            self.close()
            raise ValueError(message or f"Process 0 refused the checkpoints in {self.directory}.")

    def _read_newest(self, like: TrainState, among: Collection[int] | None) -> Restored | None:
        assert self._manager is not None
        steps = sorted(self._manager.all_steps(), reverse=True)
        steps = [step for step in steps if among is None or step in among]
        reasons: dict[int, Exception] = {}
        for step in steps:
            try:
                read = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        weights=ocp.args.StandardRestore(),
                        rest=ocp.args.StandardRestore(),
                        progress=ocp.args.JsonRestore(),
                    ),
                )
            except Exception as error:
                reasons[step] = error
                continue
            for unreadable, reason in reasons.items():
                _log.warning(
                    "Checkpoint %d in %s is unreadable and set aside: %s", unreadable, self.directory, reason
                )
                self._set_aside(unreadable)
            return Restored(_assemble(read["weights"], read["rest"], like), read["progress"]["pending"])
        if steps:
            raise ValueError(
                f"None of the checkpoints {steps} in {self.directory} can be read; the newest: "
                f"{_short(reasons[steps[0]])}. They are where they were. Run again once that is mended, or "
                "train into another folder."
            ) from reasons[steps[0]]
        return None

    def _set_aside(self, step: int) -> None:
        assert self._manager is not None
        target = self.directory / _SET_ASIDE / str(step)
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(self.directory / str(step), target)
        self._manager.reload()


def restore_weights(path: str | os.PathLike, *, best: bool = True, ema: bool = True) -> Weights:
    """Reads a model's weights without its optimizer or training code.

    Of several processes each reads for itself and waits for no other.

    Args:
        path: one checkpoint (`.../400`), a folder of checkpoints, or a run that has a folder `checkpoints`.
        best: of several, the best by validation where one was measured; otherwise, or if False, the newest.
        ema: the average of the weights where the run kept one.

    Returns:
        `Weights(params, stats, step)` with NumPy leaves in nested dictionaries.

    Raises:
        ValueError: if there is no checkpoint at `path`, or it cannot be read.
    """
    folder = _step_folder(Path(path).absolute(), best)
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
            weights = reader.restore(folder / "weights")
    except Exception as error:
        raise ValueError(f"The checkpoint {folder} cannot be read: {_short(error)}") from error
    prefix = "ema_" if ema and "ema_params" in weights else ""
    return Weights(weights[f"{prefix}params"], weights.get(f"{prefix}stats") or {}, int(folder.name))


def _step_folder(path: Path, best: bool) -> Path:
    """The folder of one complete checkpoint that `path` leads to."""
    if (path / "weights").is_dir():
        return path
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = (
        [p for p in root.iterdir() if p.name.isdigit() and (p / "weights").is_dir()] if root.is_dir() else []
    )
    if not steps:
        raise ValueError(
            f"Found no checkpoint at {path}. "
            "Give a run's folder, its folder 'checkpoints', or one step in it."
        )
    steps.sort(key=lambda p: int(p.name))
    scores = {p: _score(p) for p in steps}
    scored = [p for p in steps if scores[p] is not None]
    return max(scored, key=lambda p: (scores[p], int(p.name))) if best and scored else steps[-1]


def _score(folder: Path) -> float | None:
    """The checkpoint's validation score, larger is better; None without one or where it cannot be read."""
    try:
        score = float(json.loads((folder / "progress" / "metadata").read_text(encoding="utf-8"))[_SCORE])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return score if math.isfinite(score) else None


@dataclass(frozen=True)
class _NewestAndBest:
    """What stays, as orbax asks it: the newest `keep`, and the best by validation (of equals the newest)."""

    directory: Path
    keep: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer per checkpoint, which come in the order of their steps."""
        steps = [info.step for info in checkpoints]
        scores = {step: _score(self.directory / str(step)) for step in steps}
        scored = [step for step in steps if scores[step] is not None]
        best = max(scored, key=lambda step: (scores[step], step), default=None)
        return [step in steps[-self.keep :] or step == best for step in steps]


def _alone() -> ocp.options.MultiprocessingOptions:
    """Options for reading without waiting for other processes, which may have no such file."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"jaxrobust_reader_{me}"
    )


def _open(directory: Path, keep: int) -> ocp.CheckpointManager:
    """Orbax's manager, run by process 0 alone."""
    directory.mkdir(parents=True, exist_ok=True)
    processes = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="jaxrobust"
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=_NewestAndBest(directory, keep),
        cleanup_tmp_directories=True,
        create=jax.process_count() == 1,
        multiprocessing_options=processes
        if jax.process_count() > 1
        else ocp.options.MultiprocessingOptions(),
    )
    return ocp.CheckpointManager(directory, options=options)


def _flat(tree: PyTree) -> dict[str, np.ndarray]:
    """Leaves by path: a saved optimizer state does not depend on how orbax stores tuples."""
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _assemble(weights: Mapping[str, PyTree], rest: Mapping[str, Any], like: TrainState) -> TrainState:
    """The state from its saved parts, in the structure of `like`."""
    ema = (weights["ema_params"], weights.get("ema_stats") or {}) if "ema_params" in weights else ()
    saved = _flat((weights["params"], weights.get("stats") or {}, ema)) | {
        f"rest{k}": v for k, v in rest.items()
    }
    wanted = _flat((like.params, like.stats, like.ema))
    wanted |= {f"rest{k}": v for k, v in _flat((like.step, like.opt_state, like.obj_state)).items()}
    wrong = sorted(saved.keys() ^ wanted.keys())
    wrong += sorted(k for k in saved.keys() & wanted.keys() if saved[k].shape != wanted[k].shape)
    if wrong:
        raise ValueError(
            "The checkpoint does not fit this model, optimizer and objective; differing: "
            f"{', '.join(wrong[:6])}. Resume with the configuration it was trained with."
        )

    def fill(tree: PyTree, prefix: str) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: np.asarray(saved[prefix + jax.tree_util.keystr(path)], leaf.dtype), tree
        )

    params, stats, ema = fill((like.params, like.stats, like.ema), "")
    step, opt_state, obj_state = fill((like.step, like.opt_state, like.obj_state), "rest")
    return TrainState(step, params, stats, opt_state, obj_state, ema)


def _short(error: Exception) -> str:
    """The start of a message; tensorstore's go on for pages."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + "..."


def _differences(old: Any, new: Any, ignored: Sequence[str], path: str = "") -> list[str]:
    """`path: old -> new` for every field that differs, the ignored ones left out."""
    if path in ignored:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [
            line
            for n in names
            for line in _differences(old.get(n), new.get(n), ignored, f"{path}.{n}" if path else n)
        ]
    return [] if old == new else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]
