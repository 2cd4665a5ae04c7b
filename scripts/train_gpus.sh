#!/usr/bin/env bash
# One host with several GPUs.
#
#   scripts/train_gpus.sh cifar10_srt [FIELD=VALUE]... [--run-dir DIR]
#
# One process drives all GPUs that it sees; the batch is divided over them and the gradients are averaged. The
# result is that of one GPU, up to rounding. Both streams of the batch (labelled, unlabelled) must be multiples
# of the number of GPUs; a batch size that is not is refused with the nearest that are.
#
#   CUDA_VISIBLE_DEVICES=0,1   use these two only
#   TFDS_DATA_DIR=/data/tfds   where the prepared sets are
#
# Needs JAX's build for CUDA:  pip install 'jax[cuda12]'
# The same command again goes on from the last checkpoint.
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "usage: $0 EXPERIMENT [FIELD=VALUE]... [options of 'jaxrobust train']" >&2
  exit 2
fi

python - <<'PY'
import sys

import jax

try:
    gpus = jax.local_devices(backend="gpu")
except RuntimeError as error:
    sys.exit(f"No GPU here ({error}). Install JAX for CUDA: pip install 'jax[cuda12]'")
print(f"{len(gpus)} x {gpus[0].device_kind}")
PY

# `exec`, so that a SIGTERM reaches the run itself, which then saves and exits with code 143.
exec jaxrobust train "$@" --wrapper auto
