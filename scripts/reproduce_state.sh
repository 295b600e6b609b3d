#!/usr/bin/env bash
# From nothing to the state policy for PushT and its score; what is there already is kept and gone on with.
#
#   scripts/reproduce_state.sh                     all of it, under out/reproduce_state
#   SEED=1 OUT=out/seed_1 scripts/reproduce_state.sh                     with another seed of the training
#   EPISODES=20 STEPS=200 ROUNDS=1 CORRECTIONS=4 ROUND_SEEDS=310000:310002 SEEDS=320000:320002 REPEATS=1 OUT=/tmp/try \
#     scripts/reproduce_state.sh                   a try
#
#   PREFIX_STEPS=7 MODE=rtc LATENCIES_MS=0,400 EPISODES=1500 STEPS=30000 ROUNDS=4 CORRECTIONS=700 ROUND_STEPS=7000 \
#     OUT=out/for_delay scripts/reproduce_state.sh   a policy that lives with a delay too, in two hours; more ROUNDS later go on
#
# The scripted expert demonstrates, a policy is trained on that, and the expert then corrects it where it went wrong.
# Scores are of start states that nothing here trains or chooses on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/reproduction.sh

OUT=${OUT:-out/reproduce_state}      # recordings and runs
MODEL=${MODEL:-$OUT/pusht_state}     # the model folder
EPISODES=${EPISODES:-800}            # demonstrations, about 0.7 s of one core each
STEPS=${STEPS:-12000}                # optimiser steps on them
ROUNDS=${ROUNDS:-2}                  # of corrections
CORRECTIONS=${CORRECTIONS:-400}      # episodes that a round adds
ROUND_STEPS=${ROUND_STEPS:-5000}     # optimiser steps of a round
ROUND_SEEDS=${ROUND_SEEDS:-310000:310030}   # start states that show what a round brought
PREFIX_STEPS=${PREFIX_STEPS:-0} MODE=${MODE:-replace} LATENCIES_MS=${LATENCIES_MS:-}   # 7, rtc and 0,400: for delays
SEED=${SEED:-0}                      # of the training
SEEDS=${SEEDS:-100000:100050} REPEATS=${REPEATS:-3}
WORKERS=${WORKERS:-2}                # processes that record and evaluate
mkdir -p "$OUT"

record pusht_state "$EPISODES" "$OUT/demonstrations.zarr" 1000
train_or_resume "$OUT/demonstrated" --task pusht_state --data "$OUT/demonstrations.zarr" --steps "$STEPS" \
  --prefix-steps "$PREFIX_STEPS" --seed "$SEED" training.eval_episodes=0 training.eval_train_episodes=0
correct_or_resume "$OUT/corrected" "$ROUNDS" --run "$OUT/demonstrated" --episodes "$CORRECTIONS" \
  --mode "$MODE" --infer-every 4 ${LATENCIES_MS:+--latency-ms "$LATENCIES_MS"} --takeover-steps 20:220 \
  --eval-seeds "$ROUND_SEEDS" --steps "$ROUND_STEPS" --processes "$WORKERS" training.learning_rate=0.0005

dp-ros export "$OUT/corrected/round_$ROUNDS" "$MODEL" --temperature 0.7 --mode "$MODE" --infer-every 4 --force
dp-ros eval --model "$MODEL" --seeds "$SEEDS" --repeats "$REPEATS" --processes "$WORKERS" --json "$OUT/eval.json" --record
