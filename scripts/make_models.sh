#!/usr/bin/env bash
# The models in models/ from nothing: demonstrations, training, corrections, encoder, distillation, scores. What is there
# already under out/models is kept and gone on with.
#
#   scripts/make_models.sh                  pusht_state, pusht_image and pusht_state_fast under out/models
#
# The state policy is taught to live with a delay: it learns to go on from actions that are being executed, and half of
# its corrections are of states that it came to under 400 ms of latency. Mode and rate of inference are those that
# `dp-ros bench runtime --only delay --record` chose on other start states than those that are reported.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT:-out/models}

OUT=$OUT/state MODEL=$OUT/pusht_state MODE=rtc PREFIX_STEPS=7 TEMPERATURE=0.7 EPISODES=1200 STEPS=14000 \
  CORRECTIONS=600 ROUND_STEPS=8000 ROUNDS=2 DELAY_ROUNDS=4 scripts/reproduce_state.sh
