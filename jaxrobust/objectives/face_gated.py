"""Face recognition behind a performance gate: adversaries join once the clean faces are learnt."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.numerics import losses
from jaxrobust.objectives import _face_adversary as faces
from jaxrobust.objectives import _rows
from jaxrobust.objectives._face_regularisers import RegulariserFn, TripletCos
from jaxrobust.objectives._gate import Gate, GateState, beginning, counted
from jaxrobust.types import Array, Attack, Aux, Batch, LossFn, Net, PyTree, RowKeys

_GATE, _TRIPLET = Gate(), TripletCos()


@dataclass(frozen=True, kw_only=True)
class FaceGated:
    r"""Adversarial training of faces behind a performance gate (CN116665282A).

    .. math:: (1 - g w)\, L(x, y) + g\, \big(w\, L(x_a, y) + \lambda\, R(s, a, t)\big)

    g is 1 where the gate is open (`Gate`), else 0; s, a, t are the unit embeddings of the source x, the
    adversarial image x_a and the target x_t, from train mode, and gradients flow through all three. The
    claims leave w, lam, R and the way x_a is made open; those are ours.

    - **Adversary.** By a coin of the row's key, x_a either impersonates (max cos(f(x_a), f(x_t))) or dodges
      (min cos(f(x_a), f(x))): half and half in expectation, not in each batch, so that it does not depend on
      the number of devices. Both are one untargeted attack on the frozen net's pair logits.
    - **Target.** An image of another person in the *global* batch (with micro-batches: in its own one, over
      all devices), drawn by the row's key; or, with
      `built_attack`, the patent's: made from x by a targeted attack towards a class drawn among the others.
      (That attack's own result is taken, where the patent stops as soon as the model gives the class.) A row
      without a target, in a batch of one person or where that attack fails, dodges and has no R: R is the
      mean over the rows that have one.
    - **Gate.** It decides inside the compiled step, after the step and for the next, so it opens after the
      first step at the earliest. Closed, it costs no attack and no pass, by `jax.lax.cond`, and the step is
      that of `Standard` up to rounding. (Where several runs are vmapped, the condition becomes a selection
      and both sides are computed.) Its measure is the loss of the source images alone, over all devices; with
      micro-batches, of the last one.
    - **eps = 0** of the attack's balls is a gate that is closed by definition, as are weight = lam = 0: the
      step is that of `Standard`, bitwise.
    - **Batch normalisation.** Clean and adversarial images are passes of their own in train mode; the running
      statistics are those of the clean pass alone, since a mixture fits neither.

    Args:
        attack: untargeted, of fixed radius; finds x_a, from a start beside x. Ours: `PGD` with eps
            8/255, 5 steps of a third of eps, random start.
        loss_fn: L, `(logits [b, k], label [b]) -> [b]`: cross-entropy, `CosFace` or `ArcFace`.
        regulariser_fn: R, of `REGULARISERS`.
        weight: w in [0, 1], the share of the adversarial images' loss.
        lam: the weight of R, >= 0; 0 leaves R out: adversarial training only.
        gate: None is no gate: open from the first step (the ungated arm).
        built_attack: targeted, in a wider neighbourhood (eps 16/255); None takes real targets.

    Raises:
        ValueError: for values out of range; a targeted `attack` or one that starts at x, where the gradient
            is 0; an untargeted `built_attack`. At the first call: for a model without an embedding or with
            fewer than 2 people.

    >>> from jaxrobust.attacks import PGD
    >>> from jaxrobust.neighbourhoods import LInf
    >>> pgd = PGD(neighbourhood=LInf(eps=8 / 255), steps=5, step_size=1 / 3)
    >>> gated, ungated = FaceGated(attack=pgd), FaceGated(attack=pgd, gate=None)
    >>> adversarial_training_only = FaceGated(attack=pgd, gate=None, lam=0.0)
    >>> gated.gate.threshold_for(24) < 1
    True
    """

    attack: Attack
    loss_fn: LossFn = losses.cross_entropy
    regulariser_fn: RegulariserFn = _TRIPLET
    weight: float = 0.5
    lam: float = 1.0
    gate: Gate | None = _GATE
    built_attack: Attack | None = None

    def __post_init__(self) -> None:
        faces.check_pair_attack(self.attack)
        _validate.within("weight", self.weight, 0.0, 1.0, "It is the share of the adversarial loss.")
        _validate.non_negative("lam", self.lam)
        if self.gate is not None and not isinstance(self.gate, Gate):
            raise ValueError(
                f"Expected gate to be a Gate or None, got {self.gate!r}. Use Gate(threshold=...)."
            )
        if self.built_attack is not None:
            faces.check_built_attack(self.built_attack)

    @property
    def always(self) -> bool | None:
        """False: closed by definition. True: there is no gate. None: the gate decides."""
        if faces.stands_still(self.attack) or self.weight == self.lam == 0:
            return False
        return True if self.gate is None else None

    def init(self, params: PyTree) -> GateState:
        """The gate before the first step: closed, unless there is none."""
        return beginning(is_open=self.always is True)

    def on_validation(self, obj_state: GateState, metrics: dict[str, float]) -> GateState:
        """Tells a gate of measure `val_tar` the metric `tar` of a validation."""
        if self.always is not None or self.gate is None or self.gate.measure != "val_tar":
            return obj_state
        return self.gate.after_validation(obj_state, _validate.member("validation metric", "tar", metrics))

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: GateState) -> tuple[Array, Aux]:
        """The loss of this step under the gate's last decision, and the gate's next.

        Metrics: `loss`, `standard_loss`, `accuracy` (of the clean images), `adversarial_loss` and
        `regulariser` (0 while the gate is closed: over an interval, divide by the mean of `gate_open`),
        `gate_open` (of this step), `gate_measure` (after it), `impostor_cosine` (the mean cosine of the clean
        images' embeddings over all pairs of different people).
        """
        if net.model.num_classes < 2:
            raise ValueError(
                f"Expected a model of at least 2 people, got num_classes={net.model.num_classes}: with one "
                "there is nobody to be taken for."
            )
        outputs, after = net.train(batch.image, _rows.keys_for(keys.labelled, _rows.CLEAN))
        row_losses = self.loss_fn(outputs.logits, batch.label)
        standard = losses.mean(row_losses)
        source = faces.embedding_of(outputs)

        loss, adversarial, regulariser = standard, jnp.zeros_like(standard), jnp.zeros_like(standard)
        if self.always is not False:
            everyone = faces.gathered(source, net.axis_name)

            def when_open() -> tuple[Array, Array]:
                return self._adversarial_terms(keys.labelled, net, batch, source, everyone)

            def when_closed() -> tuple[Array, Array]:
                return jnp.zeros_like(standard), jnp.zeros_like(standard)

            if self.always:
                adversarial, regulariser = when_open()
            else:
                adversarial, regulariser = jax.lax.cond(obj_state.open, when_open, when_closed)
            g = obj_state.open.astype(standard.dtype)
            extra = self.weight * adversarial + self.lam * regulariser
            loss = (1 - g * self.weight) * standard + g * extra

        new = self._decided(obj_state, jax.lax.stop_gradient(net.mean(row_losses)), net.model.num_classes)
        metrics = {
            "loss": loss,
            "standard_loss": standard,
            "adversarial_loss": adversarial,
            "regulariser": regulariser,
            "accuracy": _rows.accuracy(outputs.logits, batch.label),
            "gate_open": obj_state.open.astype(jnp.float32),
            "gate_measure": new.measure,
            "impostor_cosine": faces.impostor_cosine(net, source, batch.label),
        }
        return loss, Aux(after.stats, new, metrics)

    def _adversarial_terms(
        self, keys: Array, net: Net, batch: Batch, source: Array, everyone: Array
    ) -> tuple[Array, Array]:
        """(L(x_a, y), R), means over the local rows whose mean over devices is that of the global batch."""
        clean = jax.lax.stop_gradient(faces.embedding_of(net.frozen(batch.image)))
        if self.built_attack is None:
            targets = faces.real_targets(keys, net, batch.label, clean)
        else:
            targets = faces.built_targets(self.built_attack, keys, net, batch)
        images = faces.adversaries(self.attack, keys, net, batch.image, clean, targets)
        outputs, _ = net.train(images, _rows.keys_for(keys, _rows.ADVERSARIAL))
        loss = losses.mean(self.loss_fn(outputs.logits, batch.label))
        if self.lam == 0:
            return loss, jnp.zeros_like(loss)

        if targets.rows is not None:
            target = everyone[targets.rows]
        else:
            assert targets.images is not None
            target_keys = _rows.keys_for(keys, faces.TARGET_PASS)
            target = faces.embedding_of(net.train(targets.images, target_keys)[0])
        rows = self.regulariser_fn(source, faces.embedding_of(outputs), target)
        share = net.mean(targets.found.astype(rows.dtype))
        kept = losses.mean(jnp.where(targets.found, rows, 0.0))
        return loss, kept / jnp.where(share > 0, share, 1)

    def _decided(self, state: GateState, loss: Array, num_classes: int) -> GateState:
        """The state after this step."""
        if self.always is not None or self.gate is None:
            return counted(state, loss.astype(jnp.float32), state.open)
        return self.gate.after_step(state, loss, self.gate.threshold_for(num_classes))
