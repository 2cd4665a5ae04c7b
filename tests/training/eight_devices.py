"""A tiny run on eight devices, which pytest's own process does not have, against one.

`python -m tests.training.eight_devices` ends with 0 where `pmap` and `shard_map` make the run of one device.
"""

import os
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def main() -> int:
    """Compares the whole states after two steps."""
    import chex
    import jax

    from jaxrobust.training import Runtime, Wrapper
    from tests.common.tiny import tiny_feed, tiny_fit

    def state_of(wrapper: Wrapper, num_devices: int):
        runtime = Runtime(wrapper=wrapper, num_devices=num_devices)
        return jax.device_get(tiny_fit(2, feed=tiny_feed(8, 16), runtime=runtime))

    expected = state_of(Wrapper.JIT, 1)
    for wrapper in (Wrapper.PMAP, Wrapper.SHARD_MAP):
        chex.assert_trees_all_close(state_of(wrapper, 8), expected, atol=2e-6)
        print(f"{wrapper.value} on {jax.device_count()} devices makes the run of one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
