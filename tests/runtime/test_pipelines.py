"""Whose scheduler tells the steps, where several pipelines share a model."""

import gc

import torch

from skipcache.runtime.pipelines import Pipelines


class Scheduler:
    timesteps = torch.tensor([900.0, 500.0])


class Pipeline:
    def __init__(self):
        self.scheduler = Scheduler()

    def __call__(self, pipelines):
        return self._step(pipelines)

    def _step(self, pipelines):
        return pipelines.schedulers()


def test_the_scheduler_of_the_pipeline_that_is_calling():
    one, other, pipelines = Pipeline(), Pipeline(), Pipelines()
    for pipeline in (one, other, one):
        pipelines.serve(pipeline)
    assert one(pipelines) == ([one.scheduler], True) and other(pipelines) == ([other.scheduler], True)
    assert pipelines.schedulers() == ([one.scheduler, other.scheduler], False), "none of them is seen to call"


def test_a_scheduler_that_is_replaced_is_read_anew():
    pipeline, pipelines = Pipeline(), Pipelines()
    pipelines.serve(pipeline)
    pipeline.scheduler = Scheduler()
    assert pipelines.schedulers() == ([pipeline.scheduler], False)
    pipeline.scheduler = None
    assert pipelines.schedulers() == ([], False)


def test_pipelines_are_not_kept_alive():
    pipeline, pipelines = Pipeline(), Pipelines()
    pipelines.serve(pipeline)
    del pipeline
    gc.collect()
    assert pipelines.alive() == []
