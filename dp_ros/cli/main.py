"""Entry of the `dp-ros` command: picks the verb's module and runs it.

Each verb is a module of this package with `add_arguments(parser)` and `run(args) -> int`; `INTERMIXED = True` in
it allows positional arguments between options. Only the chosen one is imported, so that `dp-ros --help` starts at
once and no verb pays for the libraries of another; the one-line summaries are therefore kept here, in `VERBS`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from dp_ros.errors import UserError

#: Verb and what it does; the code is in `dp_ros.cli.<verb>`, but for those of `MODULES`.
VERBS: dict[str, str] = {
    "task": "check a task file and show what it says",
    "calibrate": "estimate latencies of streams and of the robot from a recorded motion",
    "collect": "record demonstrations of the scripted expert",
    "data": "look at recordings, judge their episodes, merge, split and drop",
    "train": "train a policy on recorded episodes",
    "report": "show what became of a training run: table, curves, failed episodes",
    "dagger": "have a policy's own mistakes corrected, train on, and see what that brought",
    "distill": "make a model that draws in 1 to 4 steps from one that needs more",
    "export": "make a model folder (ONNX, safetensors, manifest) from a training run",
    "import": "make a model folder from a checkpoint of LeRobot or of the Diffusion Policy reference",
    "eval": "score a model on the simulated robot, in process or over ROS",
    "explain": "show why a policy that draws: futures, changes of mind, denoising, cost, curves",
    "bench": "measure the runtime: punctuality, latency, seams, scores under delay",
    "demo": "run the shipped policy on the simulated robot and report",
    "run": "let the policy act: send a goal to a policy node that is running",
    "up": "start the nodes of a bring-up as processes, without ros2 launch",
}

#: Verbs whose module has another name, because Python keeps theirs for itself.
MODULES = {"import": "import_model"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dp-ros <verb> ...`; return the exit status.

    0 success, 1 the verb's own failure, 2 something the person gave is wrong, 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0
    if given[0] == "--version":
        from dp_ros import __version__

        print(f"dp-ros {__version__}")
        return 0
    verb, rest = given[0], given[1:]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean `dp-ros {near[0]}`?" if near else f"the verbs are: {', '.join(VERBS)}"
        print(f"dp-ros: there is no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    try:
        status = _run(verb, rest)
        sys.stdout.flush()
    except UserError as error:
        print(f"dp-ros {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone. Nothing more can be written, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _run(verb: str, arguments: list[str]) -> int:
    name = f"dp_ros.cli.{MODULES.get(verb, verb)}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        advice = _missing(error.name or "", name)
        if not advice:
            raise
        raise UserError(advice) from error
    parser = argparse.ArgumentParser(prog=f"dp-ros {verb}", description=module.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    intermixed = getattr(module, "INTERMIXED", False)
    parse = parser.parse_intermixed_args if intermixed else parser.parse_args
    status: int = module.run(parse(arguments))
    return status


def _missing(module: str, verb_module: str) -> str:
    """What to do about a module that is not installed; empty for one of ours, which is a bug."""
    top = module.split(".")[0]
    if module == verb_module:
        return "is not part of this installation"
    if top in ("torch", "accelerate", "diffusers", "onnx", "onnxscript", "safetensors", "tensorboard"):
        return f"{top} is not installed; training needs it: `make setup-dev` or `pip install -e '.[train]'`"
    if top == "rclpy" or module in ("dp_ros.msg", "dp_ros.srv", "dp_ros.action"):
        return f"there is no {module}: run `make setup` and `source ./env.sh`, or source your workspace"
    return "" if top == "dp_ros" else f"{module} is not installed: run `make setup`, or `pip install -e .`"


def _help() -> str:
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {verb:<{width}}{summary}" for verb, summary in VERBS.items())
    return (
        "usage: dp-ros <verb> [arguments]\n\n"
        "Diffusion Policy for ROS 2: record demonstrations, train a policy, run it in closed loop.\n\n"
        f"{verbs}\n\n`dp-ros <verb> --help` shows the arguments of a verb."
    )


if __name__ == "__main__":
    sys.exit(main())
