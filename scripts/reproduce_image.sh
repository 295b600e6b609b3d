#!/usr/bin/env bash
# From nothing to an image policy for PushT and its score; what is there already is kept and gone on with.
#
#   scripts/reproduce_image.sh                          all of it, under out/reproduce_image
#   STATE_RUN=runs/pusht scripts/reproduce_image.sh     with the U-Net of this run on pusht_state
#   EPISODES=20 STEPS=200 SEEDS=320000:320005 REPEATS=1 OUT=/tmp/try STATE_RUN=... scripts/reproduce_image.sh    a try
#
# The encoder learns to tell the T's keypoints from pictures, and the U-Net is that of a policy that observes them. The
# expert's speeds may differ: the encoder only has to see every pose. Scores are of start states that nothing here trains
# or chooses on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT=${OUT:-out/reproduce_image}      # recordings and runs
MODEL=${MODEL:-$OUT/pusht_image}     # the model folder
STATE_RUN=${STATE_RUN:-}             # run on pusht_state to take the U-Net from; empty: one is made
EPISODES=${EPISODES:-600}            # labelled episodes, about 0.6 s each
STEPS=${STEPS:-}                     # optimiser steps of the encoder; empty: those of the recipe
STATE_EPISODES=${STATE_EPISODES:-700} STATE_STEPS=${STATE_STEPS:-18000} DAGGER_ROUNDS=${DAGGER_ROUNDS:-3}
SEEDS=${SEEDS:-100000:100050} REPEATS=${REPEATS:-3}
WORKERS=${WORKERS:-2}                # processes that record and evaluate
mkdir -p "$OUT"

# record TASK EPISODES RECORDING FIRST_SEED: up to so many episodes in all
record() {
  local have=0
  if [ -e "$3" ]; then
    have=$(python3 -c 'import sys; from dp_ros.data.replay_buffer import ReplayBuffer
print(ReplayBuffer.open(sys.argv[1]).n_episodes)' "$3")
  fi
  [ "$have" -ge "$2" ] && return
  local first=(); [ "$have" -gt 0 ] || first=(--seed "$4")
  dp-ros collect --fast --workers "$WORKERS" --task "$1" --episodes "$(($2 - have))" --out "$3" "${first[@]}"
}

# train_or_resume RUN OPTIONS...
train_or_resume() {
  local run=$1; shift
  if [ -e "$run/run.json" ]; then dp-ros train --out "$run" --resume; else dp-ros train --out "$run" "$@"; fi
}

if [ -z "$STATE_RUN" ]; then
  record pusht_state "$STATE_EPISODES" "$OUT/state.zarr" 1000
  train_or_resume "$OUT/state" --task pusht_state --data "$OUT/state.zarr" --steps "$STATE_STEPS" --prefix-steps 7
  STATE_RUN=$OUT/state
  if [ "$DAGGER_ROUNDS" -gt 0 ]; then
    if [ -e "$OUT/dagger/dagger.json" ]; then
      dp-ros dagger --out "$OUT/dagger" --resume
    else
      dp-ros dagger --run "$OUT/state" --out "$OUT/dagger" --rounds "$DAGGER_ROUNDS"
    fi
    STATE_RUN=$OUT/dagger/round_$DAGGER_ROUNDS
  fi
fi

record pusht_image_labelled "$EPISODES" "$OUT/labelled.zarr" 0
train_or_resume "$OUT/encoder" --config diffusion_unet_image_labelled --task pusht_image \
  --data "$OUT/labelled.zarr" --start-from "$STATE_RUN" ${STEPS:+--steps "$STEPS"}

dp-ros export "$OUT/encoder" "$MODEL" --force
dp-ros eval --model "$MODEL" --seeds "$SEEDS" --repeats "$REPEATS" --processes "$WORKERS" \
  --json "$OUT/eval.json" --record
