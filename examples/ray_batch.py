"""Pictures of many labels or prompts on a Ray cluster: one accelerated pipeline per worker, each on a GPU of its own.

    pip install 'skipcache[diffusers,scale]'
    python examples/ray_batch.py --workers 8 --speedup 2.2 --out fast
    python examples/ray_batch.py --workers 8 --calibration dit-50-steps.json --out calibrated

The folder of the pictures must be one that all machines see. Where a worker dies, Ray starts another one and makes its
batch again. Run it again and it goes on where it was stopped.
"""

from pathlib import Path

import ray
from sample_folder import Job, arguments


class Sampler:
    """Made once per worker. `job` was pickled to it, with the calibration."""

    def __init__(self, job: Job, device: str) -> None:
        self.job, self.pipe = job, job.pipeline(device)

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        self.job.sample(self.pipe, row["batch"])
        return row


def main() -> None:
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    job = Job.of(args)
    job.begin()
    left = job.left()
    if left:
        ray.init(runtime_env={"working_dir": str(Path(__file__).parent)})  # so that workers find sample_folder
        gpu = ray.cluster_resources().get("GPU", 0) > 0
        rows = ray.data.from_items([{"batch": k} for k in left], override_num_blocks=len(left))
        workers = ray.data.ActorPoolStrategy(size=args.workers)
        made = rows.map(
            Sampler,
            fn_constructor_args=(job, "cuda" if gpu else "cpu"),
            compute=workers,
            num_gpus=1 if gpu else 0,
        )
        for row in made.iter_rows():
            print(f"batch {row['batch']} is there", flush=True)
        ray.shutdown()
    print(f"{len(left)} batches made; {job.images} pictures in {job.out}")


if __name__ == "__main__":
    main()
