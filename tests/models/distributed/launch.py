"""Runs one function in several processes of one gloo group on this machine, and fails where they hang."""

import datetime
import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from pathlib import Path

SECONDS = 300  # for all of it, on a machine that is busy
PATIENCE = 60  # seconds that a process waits in one collective
WORKS = ("context", "hangs", "video", "weights")  # loaded once, by the server that all processes are forked from


def launch(work, *args, processes=2, seconds=SECONDS):
    """What `work(rank, *args)` returned, by rank; `work` is a function of a module that a process can import.

    Raises AssertionError with what each process said where one of them raises, dies, or does not end.
    """
    context, until = multiprocessing.get_context("forkserver"), time.monotonic() + seconds
    context.set_forkserver_preload([f"tests.models.distributed.{work}" for work in WORKS])
    pipes, started = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store").as_uri()
        for rank in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_begin, args=(work, args, rank, processes, store, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            started.append(process)
        try:
            answers = [_answer(pipe, until) for pipe in pipes]
        finally:
            for process in started:
                process.kill()
                process.join()
    flaws = [f"process {rank}: {said}" for rank, (ok, said) in enumerate(answers) if not ok]
    assert not flaws, "\n".join(flaws)
    return [said for _, said in answers]


def _answer(pipe, until):
    try:
        if pipe.poll(max(0.0, until - time.monotonic())):
            return pipe.recv()
    except EOFError:
        return False, "died"
    return False, "did not end in time"


def _begin(work, args, rank, processes, store, pipe):
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it
    warnings.simplefilter("ignore")
    patience = datetime.timedelta(seconds=PATIENCE)
    try:
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes, timeout=patience)
        pipe.send((True, work(rank, *args)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        pipe.close()
        os._exit(0)  # another process may wait for ever, and so would the end of the group
