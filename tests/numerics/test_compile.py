"""compile.jit is jax.jit; options go to the CPU's compiler only, and only those it knows."""

import jax
import jax.numpy as jnp
import pytest

from jaxrobust.numerics import compile


@pytest.fixture
def fresh_probe():
    compile._probed.cache_clear()
    yield
    compile._probed.cache_clear()


def test_options_of_jax_jit_pass_through():
    doubled = compile.jit(lambda x, n: x * n, static_argnames="n")
    assert float(doubled(2.0, n=3)) == 6
    donated = compile.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(8)
    donated(x)
    assert x.is_deleted()


def test_traces_once_for_equal_shapes():
    traces = []
    fn = compile.jit(lambda x: traces.append(x.shape) or x + 1)
    fn(jnp.zeros(2)), fn(jnp.ones(2))
    assert len(traces) == 1


def test_works_inside_another_jit_and_under_grad_and_vmap():
    inner = compile.jit(lambda x: x**2)
    assert float(jax.jit(lambda x: inner(x) + 1)(3.0)) == 10
    assert float(compile.jit(jax.grad(lambda x: inner(x)))(3.0)) == 6
    assert float(jax.grad(inner)(3.0)) == 6
    assert jax.vmap(inner)(jnp.arange(3.0)).tolist() == [0, 1, 4]
    assert float(jax.jit(lambda x: x + inner(jnp.float32(3)))(1.0)) == 10


def test_errors_of_the_function_are_its_own():
    def fail(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        compile.jit(fail)(1.0)


def test_can_be_lowered_and_exported():
    fn = compile.jit(lambda x: x + 1)
    assert "stablehlo.add" in fn.lower(1.0).as_text()
    assert jax.export.export(fn, platforms=["tpu"])(1.0).platforms == ("tpu",)


def test_an_unknown_option_is_left_out(monkeypatch, fresh_probe):
    monkeypatch.setattr(compile, "_CANDIDATES", {"xla_cpu_there_is_no_such_option": "yes"})
    assert compile.cpu_options() is None
    assert int(compile.jit(lambda x: x + 1)(1)) == 2


def test_an_option_of_one_program_is_given_where_it_is_known(monkeypatch):
    assert compile.known("xla_backend_optimization_level", 1) == {"xla_backend_optimization_level": 1}
    assert compile.known("xla_cpu_there_is_no_such_option", 1) == {}
    compile.known.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compile.known("xla_backend_optimization_level", 1) == {}
    compile.known.cache_clear()


def test_other_platforms_get_no_option(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert compile.cpu_options() is None


def test_the_callers_compiler_options_win(monkeypatch):
    seen = {}
    monkeypatch.setattr(compile, "cpu_options", lambda: {"a": 1, "b": 2})
    monkeypatch.setattr(jax, "jit", lambda fn, **options: seen.update(options) or fn)
    compile.jit(lambda x: x, compiler_options={"b": 3})
    assert seen["compiler_options"] == {"a": 1, "b": 3}
