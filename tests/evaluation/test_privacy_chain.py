"""The whole audit in small: a victim, an attacker who trains or optimises, and what is said of it.

Victims whose answer is known: an embedding that is the image, a constant one, and one that is noise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data import BatchSizes, Identities, ImageSet, ResidentFeed, Split, load, make_pairs, to_float
from jaxrobust.evaluation import (
    AttackedFold,
    Band,
    Reconstructed,
    calibrated_critic,
    check_attackers,
    check_images_apart,
    measure_reconstructions,
)
from jaxrobust.inversion import Features, TVInversion, content_keys, invert, publish, victim_features
from jaxrobust.models import Decoder, TinyCNN, build, decode, pca_lda
from jaxrobust.objectives import Inversion
from jaxrobust.training import Cosine, OptimizerConfig, Runtime, Wrapper, fit
from tests.evaluation.invented_faces import SHAPE, invented_faces, pixels

ATTACKERS, HELD_OUT, VICTIMS = range(24), range(24, 32), range(32, 42)
FACES = invented_faces(42, each=4)
DIMENSIONS = SHAPE[0] * SHAPE[1]


def image_itself(images, keys=None):
    return images.reshape(images.shape[0], -1)


def constant(images, keys=None):
    return 0 * image_itself(images) + 0.5


def noise(images, keys=None):
    """Unlike for every image, and nothing to do with it."""
    draw = jax.vmap(lambda key: jax.random.normal(key, (DIMENSIONS,)))
    return draw(content_keys(jax.random.key(0), images))


def trained(features_fn, num_steps):
    """A decoder of the attackers' people."""
    people = FACES.as_classes(ATTACKERS)
    return decoder_of(features_fn, (1, 1, DIMENSIONS), people, num_steps, image_shape=SHAPE, width=8)


def optimised(features_fn, start):
    def reconstruct(features):
        method = TVInversion(steps=60, restarts=1, total_variation=1e-3)
        return invert(method, features_fn, features, start=start, key=jax.random.key(0), chunk=36).image

    return reconstruct


def decoder_of(features_fn, features_shape, people, num_steps, **options):
    """A decoder of these images, trained as anything else is."""
    model = build(Decoder(**options), features_shape)
    split = Split(people, people.images[:0], ImageSet(people.images[:0], people.labels[:0]), {})
    state = fit(
        model=model,
        objective=Inversion(features_fn=features_fn, window=7),
        optimizer=OptimizerConfig(name="adam", learning_rate=3e-3, schedule=Cosine()).build(num_steps),
        feed=ResidentFeed(split, BatchSizes(16, 0), seed=0),
        num_steps=num_steps,
        seed=0,
        runtime=Runtime(wrapper=Wrapper.JIT, num_devices=1),
        progress=False,
    )
    return lambda features: decode(model, state.params, state.stats, features)


@functools.cache
def critic():
    own = pixels(FACES, ATTACKERS)
    validation = make_pairs(FACES, HELD_OUT, seed=0)
    return calibrated_critic(
        pca_lda.fit(*own, variance=0.98, num_directions=12).embed, FACES, validation, far=0.05
    )


def audited(features_fn, reconstruct):
    check_attackers(FACES, [*ATTACKERS, *HELD_OUT], VICTIMS)
    parts = []
    for people in (VICTIMS, HELD_OUT):
        images, whose = pixels(FACES, people)
        parts.append(Reconstructed(images, reconstruct(publish(features_fn, images)), whose))
    attacked = AttackedFold(
        victims=parts[0],
        held_out=parts[1],
        mean_face=pixels(FACES, ATTACKERS)[0].mean(0),
        features=publish(features_fn, parts[0].images),
        critics={"PCA + LDA": critic()},
    )
    return measure_reconstructions([attacked], judge="PCA + LDA", window=7, num_draws=100)


def test_an_embedding_that_is_the_image_is_inverted_by_optimisation_and_high():
    mean = pixels(FACES, ATTACKERS)[0].mean(0)
    report = audited(image_itself, optimised(image_itself, mean))
    assert report.likeness[0].ssim.value > 0.95 and report.band is Band.HIGH


@pytest.mark.slow
def test_an_embedding_that_is_the_image_is_inverted_by_a_decoder_and_high():
    report = audited(image_itself, trained(image_itself, 400))
    assert report.band is Band.HIGH, report.summary()


@pytest.mark.parametrize("features_fn", [constant, noise])
def test_an_embedding_without_the_image_is_undetermined_and_not_low(features_fn):
    report = audited(features_fn, trained(features_fn, 15))
    assert report.band is Band.UNDETERMINED, report.summary()
    assert any("does not beat" in reason for reason in report.why_undetermined)
    constant_said = any("constant" in reason for reason in report.why_undetermined)
    assert constant_said == (features_fn is constant)


def test_a_classifier_is_audited_by_class():
    """Digits, and the last layer but one of a net that was not even trained: its features keep the image."""
    digits = load("digits")
    classes = Identities(digits.train.images, digits.train.labels, digits.class_names, "", "digits")
    parts = {"attackers": np.arange(600), "held_out": np.arange(600, 700), "victims": np.arange(700, 820)}
    pixels = {name: to_float(classes.images[index]) for name, index in parts.items()}
    check_images_apart(classes.images[:700], classes.images[700:820])
    model = build(TinyCNN(dropout=0.0), (8, 8, 1))
    features_fn = victim_features(Features(), model, *model.init(jax.random.key(0)))
    attackers = ImageSet(classes.images[:600], classes.identity[:600])
    reconstruct = decoder_of(features_fn, (1, 1, 64), attackers, 150, image_shape=(8, 8, 1), width=8)
    embed_fn = pca_lda.fit(pixels["attackers"], classes.identity[:600]).embed
    seen = classes._replace(images=classes.images[:700], identity=classes.identity[:700])
    pairs = make_pairs(seen, seed=0)
    validation = pairs.at((pairs.first >= 600) & (pairs.second >= 600))

    def reconstructed(name):
        images = pixels[name]
        made = reconstruct(publish(features_fn, images))
        return Reconstructed(images, made, classes.identity[parts[name]], parts[name])

    attacked = AttackedFold(
        victims=reconstructed("victims"),
        held_out=reconstructed("held_out"),
        mean_face=pixels["attackers"].mean(0),
        features=publish(features_fn, pixels["victims"]),
        critics={"PCA + LDA": calibrated_critic(embed_fn, classes, validation, far=0.05)},
    )
    report = measure_reconstructions([attacked], judge="PCA + LDA", window=7, num_draws=50)
    assert report.band in (Band.MEDIUM, Band.HIGH) and report.leak.low > 0.1, report.summary()
    assert report.num_people == 10 and report.likeness[0].ssim.value > report.likeness[1].ssim.value + 0.2


def test_a_decoder_that_was_trained_on_its_victims_is_refused():
    with pytest.raises(ValueError, match="attackers and victims"):
        check_attackers(FACES, [*ATTACKERS, *VICTIMS[:1]], VICTIMS)


def test_noise_and_constant_are_what_they_say():
    images = jnp.asarray(pixels(FACES, VICTIMS)[0])
    assert float(jnp.ptp(constant(images))) == 0
    again = noise(images[::-1])[::-1]
    np.testing.assert_array_equal(noise(images), again)
    assert abs(float(jnp.corrcoef(noise(images)[0], noise(images)[1])[0, 1])) < 0.3
