"""The numbers of metrics.jsonl as scalars for TensorBoard, written with tensorboardX, an optional package."""

import time
from pathlib import Path

from ..platform.errors import InputError

PATTERN = "events.out.tfevents.*"
_PLACES = ("epoch", "step")  # where a scalar stands, and no scalars themselves


def require_tensorboard():
    """Raise InputError unless tensorboardX is installed."""
    try:
        import tensorboardX.event_file_writer  # noqa: F401
    except ImportError:
        raise InputError("tensorboard: needs tensorboardX; run: pip install tensorboardX") from None


class EventFile:
    """A file of scalars in a folder that TensorBoard is pointed at; a run that goes on adds another one.

    lines: dicts of metrics.jsonl so far, which are written if the folder has no events; step: that the run has
    reached. What the folder has of later ones, TensorBoard forgets. Scalars are named as in metrics.jsonl, and stand at
    their step. Raises OSError where it happens; SummaryWriter of tensorboardX writes in a thread, and on a full disk
    waits for ever.
    """

    def __init__(self, folder, lines, step):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        self._event, self._scalar = event_pb2.Event, scalar
        folder = Path(folder).resolve()
        folder.mkdir(exist_ok=True)
        fresh = not any(folder.glob(PATTERN))
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=step + 1, session_log=log)
        for line in lines if fresh else ():
            self.add(line)

    def add(self, metrics):
        """The numbers of one line of metrics.jsonl; they are in the file when this returns."""
        for name, value in metrics.items():
            if name not in _PLACES and isinstance(value, (int, float)):
                self._write(step=metrics["step"], summary=self._scalar(name, value))

    def _write(self, **content):
        self._writer.write_event(self._event(wall_time=time.time(), **content))
        self._writer.flush()
