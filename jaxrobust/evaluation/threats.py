"""What a model is tried at: radii of every ball, limits of motions and colours, and how long attacks look.

Nothing is guessed from the images. `THREATS` has the published settings under the names of their data sets.
"""

from dataclasses import dataclass, field
from typing import Any

from jaxrobust import _validate
from jaxrobust.types import LATER

BALLS = ("linf", "l2")


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the attacks look that are not PGD, RandAdv or GridAdv.

    The defaults are what two cores bear; the papers' own lengths go by parameter, e.g. C&W's with
    `cw:searches=9,steps=10000,learning_rate=0.01,initial_const=0.001`.

    Args:
        cw_searches, cw_steps: of C&W, so many descents of so many steps.
        cw_learning_rate, cw_initial_const: of C&W. The paper's 0.01 and 1e-3 need its 10,000 steps and nine
            searches: in a few hundred, 0.01 does not move a pixel of 0 or 1.
        ddn_steps: of DDN, also of the paper's.
        fab_steps, fab_restarts: of FAB.
        apgd_steps, apgd_restarts: of APGD.
        queries: of Square.
        targets: classes that APGD-T, FAB-T and AutoAttack go through.
        aa_steps, aa_queries: of AutoAttack, whose standard version is defined by 100 and 5000.
        upsilon: the largest share of features that JSMA changes.
        starts, bisections: of the Point-wise attack.
        joint_steps, joint_granularity: gradient steps at each pose of the joint attack, and the poses.
        colour_granularity: values of (hue, saturation, brightness, contrast, grey) of the colour attack.
        colour_steps: of the colour attack per pixel, which has too many shifts for a grid.
    """

    cw_searches: int = 5
    cw_steps: int = 200
    cw_learning_rate: float = 0.1
    cw_initial_const: float = 0.1
    ddn_steps: int = 100
    fab_steps: int = 100
    fab_restarts: int = 1
    apgd_steps: int = 50
    apgd_restarts: int = 1
    queries: int = 5000
    targets: int = 9
    aa_steps: int = 100
    aa_queries: int = 5000
    upsilon: float = 0.145
    starts: int = 10
    bisections: int = 10
    joint_steps: int = 10
    joint_granularity: tuple[int, int, int] = (3, 3, 7)
    colour_granularity: tuple[int, int, int, int, int] = (5, 3, 5, 5, 2)
    colour_steps: int = 20

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, int):
                _validate.at_least(name, value, 1)
            elif isinstance(value, float):
                _validate.positive(name, value)
        _check_counts("joint_granularity", self.joint_granularity, ("down", "right", "angle"))
        axes = ("hue", "saturation", "brightness", "contrast", "grey")
        _check_counts("colour_granularity", self.colour_granularity, axes)


@dataclass(frozen=True, kw_only=True)
class Colours:
    """The limits of the colour shift; see `ColourShift`.

    Args:
        hue: degrees. saturation, contrast: relative. brightness: pixels in [0, 1]. grey: in [0, 1], the
            way to black-and-white. The defaults change the grey level alone, which every image has.
        per_pixel: one shift for each pixel.
    """

    hue: float = 0.0
    saturation: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.3
    grey: float = 0.0
    per_pixel: bool = False


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """The radii that a model is tried at, and how long the attacks look.

    Args:
        eps: pixel radius of `ball`, in pixels of [0, 1].
        ball: `linf` or `l2`, a name of `NEIGHBOURHOODS`.
        eps_linf, eps_l2: the radii of attacks that look in another ball than `ball`, in pixels; of a
            minimum-norm attack the length at which it counts. None: such an attack is refused unless it is
            given its `eps`.
        eps_l0: the same for those that count changed pixels.
        steps: of PGD. step_size: in radii, of PGD. restarts: of PGD.
        mi_steps, decay: of MI-FGSM, whose step is 1 / mi_steps radii.
        max_angle: degrees. max_shift: pixels; 0 leaves the motion out.
        num_random: draws of RandAdv.
        granularity: of GridAdv, values of (shift down, shift right, angle).
        colours: the limits of the colour shift.
        lengths: how long the further attacks look.

    >>> ThreatModel(eps=8 / 255).steps
    40
    """

    eps: float
    ball: str = "linf"
    eps_linf: float | None = field(default=None, metadata=LATER)
    eps_l2: float | None = field(default=None, metadata=LATER)
    eps_l0: int | None = field(default=None, metadata=LATER)
    steps: int = 40
    step_size: float = 1 / 30
    restarts: int = 1
    mi_steps: int = 10
    decay: float = 1.0
    max_angle: float = 30.0
    max_shift: float = 3.0
    num_random: int = 10
    granularity: tuple[int, int, int] = (5, 5, 31)
    colours: Colours = field(default_factory=Colours, metadata=LATER)
    lengths: Lengths = field(default_factory=Lengths, metadata=LATER)

    def __post_init__(self):
        _validate.positive("eps", self.eps, "Use the attack 'none' for clean accuracy.")
        _validate.member("ball", self.ball, dict.fromkeys(BALLS))
        for name in ("eps_linf", "eps_l2"):
            if getattr(self, name) is not None:
                _validate.positive(name, getattr(self, name), "It is in pixels of [0, 1].")
        if self.eps_l0 is not None:
            _validate.at_least("eps_l0", self.eps_l0, 1, "It is a number of pixels.")
        for name in ("eps",) if self.ball == "linf" else ("eps_linf",):
            if getattr(self, name) is not None:
                _validate.within(
                    name,
                    getattr(self, name),
                    0.0,
                    1.0,
                    "Pixels are in [0, 1]; 8 levels of 255 are eps=8/255.",
                )
        _validate.positive("step_size", self.step_size, "It is in radii, e.g. 1/30.")
        for name in ("steps", "restarts", "mi_steps", "num_random"):
            _validate.at_least(name, getattr(self, name), 1)
        _validate.non_negative("decay", self.decay)
        _validate.non_negative("max_angle", self.max_angle, "It is in degrees.")
        _validate.non_negative("max_shift", self.max_shift, "It is in pixels.")
        _check_counts("granularity", self.granularity, ("down", "right", "angle"))
        for name, kind in (("colours", Colours), ("lengths", Lengths)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"Expected {name} as {kind.__name__}(...), got {getattr(self, name)!r}.")

    def radius_field(self, ball: str) -> str:
        """The field that has the radius of this ball."""
        return "eps" if ball == self.ball else f"eps_{ball}"

    def radius(self, ball: str) -> Any:
        """The radius of `linf`, `l2` or `l0`, in the norm's own units.

        Raises:
            ValueError: where none is given.

        >>> ThreatModel(eps=0.3, eps_l2=1.5).radius("l2")
        1.5
        """
        name = self.radius_field(ball)
        value = getattr(self, name)
        if value is None:
            example = {"linf": "8/255", "l2": "1.5", "l0": "12"}[ball]
            raise ValueError(
                f"This threat model has no radius of the {ball} ball. Give it one: {name}={example} "
                f"(--{name.replace('_', '-')} on the command line), or name it with the attack, like "
                f"NAME:eps={example}."
            )
        return value


def _check_counts(name: str, value: Any, axes: tuple[str, ...]) -> None:
    if not isinstance(value, tuple) or len(value) != len(axes):
        like = {3: "three", 5: "five"}[len(axes)]
        raise ValueError(
            f"Expected {name} as {like} numbers of values ({', '.join(axes)}), like "
            f"{(5, 5, 31) if len(axes) == 3 else (5, 3, 5, 5, 2)}, got {name}={value!r}."
        )
    for count in value:
        _validate.at_least(name, count, 1)


THREATS = {
    # CN111401445A and arXiv 2003.06974: eps 0.3, 40 steps of 0.01; +-30 degrees, +-3 pixels, 5 x 5 x 31.
    # l2 1.5 and 12 pixels: the thresholds of Schott et al. (arXiv 1805.09190), whose l_inf is 0.3 too.
    "mnist": ThreatModel(eps=0.3, eps_l2=1.5, eps_l0=12, steps=40, step_size=1 / 30),
    # The source's radius 0.031 (not 8/255), with 20 steps of 0.003 as TRADES evaluates (arXiv 1901.08573).
    # l2 0.5 as RobustBench (arXiv 2010.09670), 24 pixels as Sparse-RS (arXiv 2006.12834); colours are ours.
    "cifar10": ThreatModel(
        eps=0.031,
        eps_l2=0.5,
        eps_l0=24,
        steps=20,
        step_size=0.003 / 0.031,
        colours=Colours(hue=30.0, saturation=0.3, grey=1.0),
    ),
    # Our choice for 8x8 images; a whole pixel of eight leaves no model any accuracy.
    "digits": ThreatModel(
        eps=0.15, eps_l2=0.6, eps_l0=4, steps=40, step_size=1 / 30, max_angle=10.0, max_shift=0.5
    ),
}
