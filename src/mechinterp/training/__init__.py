"""Training: the Run folder, the recorder that any loop can write it with, our loop, and many runs at once."""

from mechinterp.training.config import TrainConfig, resolve
from mechinterp.training.loop import train
from mechinterp.training.many import Job, train_jobs, train_many
from mechinterp.training.recorder import Recorder
from mechinterp.training.run import Run
from mechinterp.training.trainer import Trainer

__all__ = ["Job", "Recorder", "Run", "TrainConfig", "Trainer", "resolve", "train", "train_jobs", "train_many"]
