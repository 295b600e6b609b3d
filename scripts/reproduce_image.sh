#!/usr/bin/env bash
# From nothing to an image policy for PushT and its score; what is there already is kept and gone on with.
#
#   scripts/reproduce_image.sh                          all of it, under out/reproduce_image
#   STATE_RUN=runs/pusht scripts/reproduce_image.sh     with the U-Net of this run on pusht_state, or of a model
#   EPISODES=20 STEPS=200 SEEDS=320000:320005 REPEATS=1 OUT=/tmp/try STATE_RUN=... scripts/reproduce_image.sh    a try
#
# The encoder learns to tell the T's keypoints from pictures, and the U-Net is that of a policy that observes them. The
# expert's speeds may differ: the encoder only has to see every pose. Scores are of start states that nothing here trains
# or chooses on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/reproduction.sh

OUT=${OUT:-out/reproduce_image}      # recordings and runs
MODEL=${MODEL:-$OUT/pusht_image}     # the model folder
STATE_RUN=${STATE_RUN:-}             # run or model of pusht_state to take the U-Net from; empty: one is made
EPISODES=${EPISODES:-600}            # labelled episodes
STEPS=${STEPS:-}                     # optimiser steps of the encoder; empty: those of the recipe
STATE_EPISODES=${STATE_EPISODES:-800} STATE_STEPS=${STATE_STEPS:-12000} ROUNDS=${ROUNDS:-2}   # of scripts/reproduce_state.sh
MODE=${MODE:-replace}                # of the model's execution: rtc for a U-Net that learnt with prefixes
SEEDS=${SEEDS:-100000:100050} REPEATS=${REPEATS:-3}
WORKERS=${WORKERS:-2}                # processes that record and evaluate
mkdir -p "$OUT"

if [ -z "$STATE_RUN" ]; then
  OUT=$OUT/state EPISODES=$STATE_EPISODES STEPS=$STATE_STEPS ROUNDS=$ROUNDS SEEDS=$SEEDS REPEATS=$REPEATS MODEL= \
    WORKERS=$WORKERS scripts/reproduce_state.sh
  STATE_RUN=$OUT/state/corrected/round_$ROUNDS
fi

record pusht_image_labelled "$EPISODES" "$OUT/labelled.zarr" 0
train_or_resume "$OUT/encoder" --config diffusion_unet_image_labelled --task pusht_image \
  --data "$OUT/labelled.zarr" --start-from "$STATE_RUN" ${STEPS:+--steps "$STEPS"}

dp-ros export "$OUT/encoder" "$MODEL" --temperature 0.7 --mode "$MODE" --infer-every 4 --force
dp-ros eval --model "$MODEL" --seeds "$SEEDS" --repeats "$REPEATS" --processes "$WORKERS" \
  --json "$OUT/eval.json" --record
