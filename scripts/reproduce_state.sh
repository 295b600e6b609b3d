#!/usr/bin/env bash
# From nothing to the state policy for PushT and its score; what is there already is kept and gone on with.
#
#   scripts/reproduce_state.sh                     all of it, under out/reproduce_state
#   SEED=1 OUT=out/seed_1 scripts/reproduce_state.sh                     with another seed of the training
#   EPISODES=20 STEPS=200 ROUNDS=1 CORRECTIONS=4 ROUND_SEEDS=310000:310002 SEEDS=320000:320002 REPEATS=1 OUT=/tmp/try \
#     scripts/reproduce_state.sh                   a try
#
#   scripts/reproduce_models.sh                           the models that are shipped, which live with a delay too, by this one
#
# The scripted expert demonstrates, a policy is trained on that, and the expert then corrects it where it went wrong:
# first in rounds without a delay, then, with DELAY_ROUNDS, in rounds under one. More rounds later go on with it.
# Scores are of start states that nothing here trains or chooses on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/reproduction.sh

OUT=${OUT:-out/reproduce_state}      # recordings and runs
MODEL=${MODEL:-$OUT/pusht_state}     # the model folder
EPISODES=${EPISODES:-800}            # demonstrations
STEPS=${STEPS:-12000}                # optimiser steps on them
ROUNDS=${ROUNDS:-2}                  # of corrections
CORRECTIONS=${CORRECTIONS:-400}      # episodes that a round adds
ROUND_STEPS=${ROUND_STEPS:-5000}     # optimiser steps of a round
ROUND_SEEDS=${ROUND_SEEDS:-310000:310030}   # start states that show what a round brought
PREFIX_STEPS=${PREFIX_STEPS:-0} MODE=${MODE:-replace}   # 7 and rtc for a policy that is to live with a delay
DELAY_ROUNDS=${DELAY_ROUNDS:-0} DELAY_MS=${DELAY_MS:-400}   # further rounds, under so much latency
FINAL_STEPS=${FINAL_STEPS:-0}        # optimiser steps on all of it at the end: a round sees what is new but once or twice
TEMPERATURE=${TEMPERATURE:-1}        # at which the policy comes to the states that are corrected; the model has 0.7
SEED=${SEED:-0}                      # of the training
SEEDS=${SEEDS:-100000:100050} REPEATS=${REPEATS:-3}
WORKERS=${WORKERS:-2}                # processes that record and evaluate
mkdir -p "$OUT"

record pusht_state "$EPISODES" "$OUT/demonstrations.zarr" 1000
train_or_resume "$OUT/demonstrated" --task pusht_state --data "$OUT/demonstrations.zarr" --steps "$STEPS" \
  --prefix-steps "$PREFIX_STEPS" --seed "$SEED" "sampler.temperature=$TEMPERATURE" \
  training.eval_episodes=0 training.eval_train_episodes=0

how=(--episodes "$CORRECTIONS" --mode "$MODE" --infer-every 4 --takeover-steps 20:220 --eval-seeds "$ROUND_SEEDS"
  --steps "$ROUND_STEPS" --processes "$WORKERS" training.learning_rate=0.0005)
correct_or_resume "$OUT/corrected" "$ROUNDS" --run "$OUT/demonstrated" "${how[@]}"
RUN=$OUT/corrected/round_$ROUNDS DATA=$OUT/corrected/data.zarr
if [ "$DELAY_ROUNDS" -gt 0 ]; then
  correct_or_resume "$OUT/delayed" "$DELAY_ROUNDS" --run "$RUN" --data "$DATA" \
    --latency-ms "$DELAY_MS" --first-seed 600000 "${how[@]}"
  RUN=$OUT/delayed/round_$DELAY_ROUNDS DATA=$OUT/delayed/data.zarr
fi
if [ "$FINAL_STEPS" -gt 0 ]; then
  train_or_resume "$OUT/final" --task pusht_state --data "$DATA" --start-from "$RUN" --steps "$FINAL_STEPS" \
    --prefix-steps "$PREFIX_STEPS" --lr 0.0007 --seed "$SEED" "sampler.temperature=$TEMPERATURE" \
    training.eval_episodes=0 training.eval_train_episodes=0
  RUN=$OUT/final
fi

dp-ros export "$RUN" "$MODEL" --temperature 0.7 --mode "$MODE" --infer-every 4 --force
dp-ros eval --model "$MODEL" --seeds "$SEEDS" --repeats "$REPEATS" --processes "$WORKERS" --json "$OUT/eval.json" --record
