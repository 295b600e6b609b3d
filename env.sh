# Source this in bash or zsh, from anywhere: `dp-ros`, `python`, `colcon` and the nodes then work.
# `make setup` makes what it points at. It sets variables and leaves the shell's options alone.
if [ -n "${BASH_VERSION:-}" ]; then
  _dp_ros_root=$(cd "$(dirname "${BASH_SOURCE[0]}")" >/dev/null && pwd)
elif [ -n "${ZSH_VERSION:-}" ]; then
  eval '_dp_ros_root=${${(%):-%x}:A:h}'
else
  _dp_ros_root=$PWD
fi

# _dp_ros_prepend NAME FOLDER: puts FOLDER first in the list NAME, once.
_dp_ros_prepend() {
  eval "_dp_ros_rest=:\${$1:-}:"
  while :; do
    case $_dp_ros_rest in
      *":$2:"*) _dp_ros_rest="${_dp_ros_rest%%":$2:"*}:${_dp_ros_rest#*":$2:"}" ;;
      *) break ;;
    esac
  done
  _dp_ros_rest=${_dp_ros_rest#:}
  _dp_ros_rest=${_dp_ros_rest%:}
  export "$1=$2${_dp_ros_rest:+:$_dp_ros_rest}"
}

if [ ! -e "$_dp_ros_root/.venv/dp_ros_setup.json" ]; then
  echo "env.sh: not set up yet: run  make -C $_dp_ros_root setup" >&2
else
  _dp_ros_ros=$(sed -n 's/.*"ros": "\(.*\)".*/\1/p' "$_dp_ros_root/.venv/dp_ros_setup.json")
  if [ "$_dp_ros_ros" = wheels ]; then
    if [ -n "${ROS_DISTRO:-}" ] && [ -z "${_ROS_WHEELS_BOOTSTRAP_COMPLETE:-}" ]; then
      echo "env.sh: this shell has ROS 2 $ROS_DISTRO sourced, but the set-up was made without it:" >&2
      echo "        run  make setup  in this shell, or use a shell without that ROS 2." >&2
    fi
    export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3 _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    while IFS= read -r _dp_ros_folder; do
      _dp_ros_prepend LD_LIBRARY_PATH "$_dp_ros_folder"
    done <<END
$(find "$_dp_ros_root/.venv/lib/" -maxdepth 3 -name 'ros_*.libs')
END
    _dp_ros_prepend LD_LIBRARY_PATH "$_dp_ros_root/.venv/lib"
    _dp_ros_prepend AMENT_PREFIX_PATH "$_dp_ros_root/.venv"
    _dp_ros_prepend CMAKE_PREFIX_PATH "$_dp_ros_root/.venv"
  else
    case ":${AMENT_PREFIX_PATH:-}:" in
      *":$_dp_ros_ros:"*) ;;
      *)
        echo "env.sh: this set-up uses the ROS 2 in $_dp_ros_ros: source its setup file first," >&2
        echo "        or run  make setup  in this shell to change over to wheels." >&2
        ;;
    esac
  fi
  _dp_ros_prepend LD_LIBRARY_PATH "$_dp_ros_root/.ros/install/lib"
  _dp_ros_prepend AMENT_PREFIX_PATH "$_dp_ros_root/.ros/install"
  while IFS= read -r _dp_ros_folder; do
    [ -z "$_dp_ros_folder" ] || _dp_ros_prepend PYTHONPATH "$_dp_ros_folder"
  done <<END
$(find "$_dp_ros_root/.ros/install/lib" -maxdepth 2 -name '*-packages' 2>/dev/null)
END
  _dp_ros_prepend PYTHONPATH "$_dp_ros_root"
  _dp_ros_prepend PATH "$_dp_ros_root/.ros/install/bin"
  _dp_ros_prepend PATH "$_dp_ros_root/.venv/bin"
  export VIRTUAL_ENV="$_dp_ros_root/.venv"
  # Nodes of this machine only, unless the shell already says how far to look for others.
  if [ -z "${ROS_AUTOMATIC_DISCOVERY_RANGE:-}" ] && [ -z "${ROS_STATIC_PEERS:-}" ]; then
    export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
  fi
  # Shared memory large enough for pictures, unless the shell says otherwise or there is little (dp_ros/dds.py).
  if [ -z "${FASTRTPS_DEFAULT_PROFILES_FILE:-}${FASTDDS_DEFAULT_PROFILES_FILE:-}${FASTDDS_BUILTIN_TRANSPORTS:-}" ]; then
    _dp_ros_free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
    if [ "${_dp_ros_free:-0}" -ge 262144 ]; then
      export FASTRTPS_DEFAULT_PROFILES_FILE="$_dp_ros_root/config/fastdds.xml"
    fi
  fi
fi
unset _dp_ros_root _dp_ros_ros _dp_ros_folder _dp_ros_rest _dp_ros_free
unset -f _dp_ros_prepend
