"""50,000 pictures for FID on several processes, by torchrun and accelerate.

    torchrun --nproc-per-node 8 --max-restarts 3 examples/torchrun_batch.py --speedup 2.2 --out fast
    torchrun --nproc-per-node 8 --max-restarts 3 examples/torchrun_batch.py --out plain
    skipcache compare fast plain --npz

Run it again and it goes on where it was stopped. Without torchrun it runs on one process and makes the same pictures.
"""

import torch
from accelerate import PartialState
from sample_folder import Job, arguments


def main() -> None:
    job = Job.of(arguments(__doc__.partition("\n")[0]).parse_args())
    state = PartialState(cpu=not torch.cuda.is_available())
    if state.is_main_process:
        job.begin()
    state.wait_for_everyone()
    left = job.left()
    state.wait_for_everyone()  # nobody writes before all have looked, so that all split one list
    pipe = job.pipeline(state.device)
    with state.split_between_processes(left) as mine:
        for k in mine:
            job.sample(pipe, k)
    print(f"process {state.process_index}: {len(mine)} of {len(left)} batches", flush=True)
    state.destroy_process_group()


if __name__ == "__main__":
    main()
