# Steps of the reproduce_*.sh scripts, to be sourced: each goes on with what is there already.

# record TASK EPISODES RECORDING FIRST_SEED: up to so many episodes in all, by $WORKERS processes
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

# correct_or_resume FOLDER ROUNDS OPTIONS...: so many rounds of DAgger in all
correct_or_resume() {
  local folder=$1 how=(--resume); shift
  [ -e "$folder/dagger.json" ] || how=("${@:2}")
  dp-ros dagger --out "$folder" --rounds "$1" "${how[@]}"
}
