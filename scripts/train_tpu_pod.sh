#!/usr/bin/env bash
# A TPU pod slice: several hosts, each with a few chips, one process per host.
#
#   TPU_NAME=... ZONE=... PROJECT=... scripts/train_tpu_pod.sh cifar10_srt --run-dir DIR [FIELD=VALUE]...
#
# Run it on your own machine, with gcloud signed in. The slice must exist already, e.g. from
#
#   gcloud compute tpus tpu-vm create "$TPU_NAME" --zone "$ZONE" --project "$PROJECT" \
#     --accelerator-type TYPE --version RUNTIME
#
# and every host must have the package and the data set. Once, on all hosts:
#
#   gcloud compute tpus tpu-vm scp --recurse . "$TPU_NAME":jaxrobust --worker=all --zone "$ZONE" --project "$PROJECT"
#   gcloud compute tpus tpu-vm ssh "$TPU_NAME" --worker=all --zone "$ZONE" --project "$PROJECT" \
#     --command "pip install -e './jaxrobust[prepare]' 'jax[tpu]' && jaxrobust data prepare cifar10 --data-dir DATA_DIR"
#
# `--worker=all` starts the same command on every host. With `--distributed` the processes find each other
# through the slice's own metadata; each reads its share of every batch, and process 0 writes the checkpoints
# and metrics into its --run-dir. To resume, run this again: process 0 sends what it restores to the others.
#
#   DATA_DIR   where the prepared sets are on the hosts (default: tensorflow_datasets in the home folder there)
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "usage: TPU_NAME=... ZONE=... PROJECT=... $0 EXPERIMENT --run-dir DIR [FIELD=VALUE]..." >&2
  exit 2
fi
: "${TPU_NAME:?set TPU_NAME to the name of the slice}"
: "${ZONE:?set ZONE to its zone}"
: "${PROJECT:?set PROJECT to its project}"

# Quoted once for the remote shell, so that overrides with brackets and spaces arrive as they are.
arguments=$(printf '%q ' "$@")
# shellcheck disable=SC2016  # $HOME is the remote one
data_dir=${DATA_DIR:-'$HOME/tensorflow_datasets'}

exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --worker=all --zone "$ZONE" --project "$PROJECT" \
  --command "TFDS_DATA_DIR=$data_dir jaxrobust train $arguments --distributed --no-progress"
