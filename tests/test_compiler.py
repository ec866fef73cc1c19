"""Options of the compiler for programs that the default does not suit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nst_jax
from nst_jax import compiler, examples, objective, optimize


@jax.jit
def tripled(x):
    return 3 * x


@pytest.fixture
def optimized():
    """As in a user's process, where nobody disables optimisations."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def test_an_unknown_option_is_gone_without():
    assert not compiler._is_known("xla_no_such_option", True)
    assert compiler._is_known("xla_backend_optimization_level", 1)
    for options in (compiler.LEAN, compiler.QUICK, {"xla_no_such_option": True}):
        program = compiler.compiled(tripled, tuple(options.items()))
        assert program is not tripled and program(2.0) == 6.0
        assert program is compiler.compiled(tripled, tuple(options.items()))  # compiled once
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        jax.jit(jnp.sin, compiler_options={"xla_no_such_option": True})(1.0)


def test_a_lean_program_is_for_a_cpu():
    assert optimize._program(lean=False) is optimize._advance
    assert optimize._program(lean=True) is not optimize._advance


def test_what_is_traced_or_asked_to_compile_fast_stays_as_it_is(optimized, monkeypatch):
    def once():
        return compiler.run_once(tripled, static_argnames=())

    assert once() is not tripled and once()(2.0) == 6.0
    seen = []
    jax.make_jaxpr(lambda x: seen.append(once()))(1.0)
    assert seen == [tripled]
    monkeypatch.setattr(compiler.sharding, "platform_of", lambda mesh: "tpu")
    assert once() is tripled
    monkeypatch.undo()
    jax.config.update("jax_disable_most_optimizations", True)
    assert once() is tripled


def test_targets_are_those_of_the_plain_programs(vgg16, optimized):
    """Also where a user compiles the whole, in which no options may be given."""
    content, style = examples.butterfly(32), examples.rainbow(32)
    config = nst_jax.Config().replace(
        content_layers=("block2_conv1",), style_layers=("block1_conv1",), nearest=None
    )
    quick = nst_jax.compute_targets(vgg16, content, [style], config).terms
    traced = jax.jit(lambda x: nst_jax.compute_targets(vgg16, x, [style], config).terms)(content)
    plain = {
        **objective.content_targets(vgg16, content, config),
        **objective.style_targets(vgg16, style, config),
    }
    plain = jax.tree.map(lambda leaf: leaf[None], plain)
    for found in (quick, traced):
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())
