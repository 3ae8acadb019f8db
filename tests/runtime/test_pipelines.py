"""Whose scheduler tells the steps, where several pipelines share a model."""

import gc
import pickle

import pytest
import torch
from torch import nn

import skipcache
from skipcache.runtime.pipelines import Pipelines
from tests.models.pipelines import dit, run_dit
from tests.models.sampling import sample


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
    assert pipelines.schedulers() == ([one.scheduler, other.scheduler], False), "none of them is seen to call"
    assert one(pipelines) == ([one.scheduler], True)
    assert pipelines.schedulers() == ([other.scheduler], False), "the other one's run is that of its pipeline"
    one.scheduler.timesteps = torch.tensor([700.0])
    assert pipelines.schedulers() == ([one.scheduler, other.scheduler], False), "until it begins another one"


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


def test_a_copy_of_a_model_finds_the_pipeline_that_calls_it():
    model, pipeline, other = nn.Linear(1, 1), Pipeline(), Pipeline()
    pipeline.transformer = model
    pipelines = Pipelines(orphan=model)
    assert pipelines.schedulers() == other(pipelines) == ([], False) and pipelines.absent
    assert pipeline(pipelines) == ([pipeline.scheduler], True) and not pipelines.absent
    assert pipelines.alive() == [pipeline] and pipelines.expected
    assert not Pipelines().expected and Pipelines(orphan=model).expected


@pytest.mark.parametrize("engine", ["fx", "hooks"])
def test_a_pipeline_that_is_pickled_keeps_its_schedule(engine):
    """Sparse early and dense late, as only a scheduler tells; without one full steps stand evenly."""
    pipe = skipcache.accelerate(dit(), speedup=1.5, engine=engine)
    expected, places = run_dit(pipe, steps=16), skipcache.report(pipe).full_at
    moved = dit()
    moved.transformer = pickle.loads(pickle.dumps(pipe.transformer))
    for sent in (pickle.loads(pickle.dumps(pipe)), moved):
        assert torch.equal(run_dit(sent, steps=16), expected)
        report = skipcache.report(sent)
        assert report.full_at == places and not report.reasons
    alone = pickle.loads(pickle.dumps(pipe.transformer))
    sample("dit", alone, steps=16)
    assert skipcache.report(alone).full_at != places
    assert any("has not seen the pipeline" in reason for reason in skipcache.report(alone).reasons)
