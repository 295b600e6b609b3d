#!/usr/bin/env bash
# Finds a Python that can hold the environment and hands over to scripts/install.py.
#   scripts/setup.sh        what recording and running need (no torch)
#   scripts/setup.sh dev    and what training and the tests need
# PYTHON=/path/to/python chooses the interpreter.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }

# Prefixes of a ROS 2 that is sourced, without what env.sh of this checkout adds.
sourced=$(tr ':' '\n' <<<"$AMENT_PREFIX_PATH" | grep -v -e "^$root/" -e '^$')

if [ -n "$PYTHON" ]; then
  candidates=("$PYTHON")
elif [ -n "$sourced" ]; then
  candidates=(/usr/bin/python3 python3 python3.12 python3.11)  # ROS 2 belongs to the system's Python
else
  candidates=("$root/.venv/bin/python" python3 python3.12 python3.11 /usr/bin/python3)
fi
for python in "${candidates[@]}"; do
  if usable "$python"; then
    exec env -u PYTHONHOME "$python" "$root/scripts/install.py" "$@"
  fi
done

cat >&2 <<MESSAGE
setup: no Python 3.11 or 3.12 found (looked for: ${candidates[*]}; python3 is $(python3 --version 2>&1)).
  Debian 12:     sudo apt-get install python3 python3-venv
  Ubuntu 24.04:  sudo apt-get install python3 python3-venv
  elsewhere:     install one and say  make setup PYTHON=/path/to/python3.12
MESSAGE
exit 1
