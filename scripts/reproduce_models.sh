#!/usr/bin/env bash
# Models like those in models/ from nothing: demonstrations, training, corrections, encoder, distillation, scores. What is
# there already under out/models is kept and gone on with.
#
#   scripts/reproduce_models.sh             pusht_state, pusht_image and pusht_state_fast under out/models
#   EPISODES=20 STEPS=200 CORRECTIONS=8 ROUND_STEPS=100 DELAY_ROUNDS=1 FINAL_STEPS=100 ROUND_SEEDS=310000:310002 \
#     IMAGE_EPISODES=20 IMAGE_STEPS=100 FAST_STEPS=100 SEEDS=320000:320002 REPEATS=1 OUT=/tmp/try scripts/reproduce_models.sh    a try
#
# The state policy is taught to live with a delay: it learns to go on from actions that are being executed (prefixes),
# most of its corrections are of states that it came to under 400 ms of latency, and in the end it learns from all of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
MADE=${OUT:-out/models}
export SEEDS=${SEEDS:-100000:100050} REPEATS=${REPEATS:-3}

MODEL=$MADE/pusht_state OUT=$MADE/state MODE=rtc PREFIX_STEPS=7 TEMPERATURE=0.7 EPISODES=${EPISODES:-1200} \
  STEPS=${STEPS:-14000} CORRECTIONS=${CORRECTIONS:-600} ROUND_STEPS=${ROUND_STEPS:-8000} ROUNDS=2 \
  DELAY_ROUNDS=${DELAY_ROUNDS:-4} FINAL_STEPS=${FINAL_STEPS:-18000} scripts/reproduce_state.sh

# the encoder and the distillation need nothing of each other
distil() {
  if [ -e "$MADE/distilled/run.json" ]; then
    exec dp-ros distill --out "$MADE/distilled" --resume
  else
    exec dp-ros distill "$MADE/pusht_state" --data "$MADE/state/demonstrations.zarr" --out "$MADE/distilled" \
      ${FAST_STEPS:+--steps "$FAST_STEPS"}
  fi
}
distil > "$MADE/distil.log" 2>&1 &
distilling=$!
trap 'kill "$distilling" 2> /dev/null || true' EXIT

MODEL=$MADE/pusht_image OUT=$MADE/image MODE=rtc EPISODES=${IMAGE_EPISODES:-600} STEPS=${IMAGE_STEPS:-} \
  STATE_RUN=$MADE/state/final scripts/reproduce_image.sh

wait "$distilling" || { cat "$MADE/distil.log" >&2; exit 1; }
dp-ros export "$MADE/distilled" "$MADE/pusht_state_fast" --mode replace --infer-every 4 --force
dp-ros eval --model "$MADE/pusht_state_fast" --seeds "$SEEDS" --repeats "$REPEATS" --processes "${WORKERS:-2}" \
  --json "$MADE/fast_eval.json"
