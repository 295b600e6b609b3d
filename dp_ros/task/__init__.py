"""The task: what a policy observes, what it commands, and how both lie in time.

`load_task` reads a task file; `TaskSpec` is the whole, `ObservationSpec` and `ActionSpec` its parts. Every
node and tool takes these facts from here and from nowhere else.
"""

from dp_ros.task.action import ActionSpec, GripperSpec
from dp_ros.task.observation import ObservationSpec
from dp_ros.task.problems import TaskError
from dp_ros.task.spec import TaskSpec, load_task

__all__ = ["ActionSpec", "GripperSpec", "ObservationSpec", "TaskError", "TaskSpec", "load_task"]
