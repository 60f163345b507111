"""Run shard jobs on a dask cluster: bounded, restartable, and plain about what went wrong.

A task is one shard of one modality; a worker is one process with one task at a time and keeps its
encoders loaded. No more tasks are submitted than workers can hold, so a failure is seen when it
happens. dask blames every task that a lost worker held, not just the one that killed it: those
shards are tried again at the end, one at a time and with clips decoded in a child process, so that
a clip that kills or holds up its decoder is found and costs itself alone.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from extract.errors import ExtractError, is_out_of_memory
from extract.jobs import Job, ShardReport
from extract.worker import encode_shard

if TYPE_CHECKING:
    from distributed import Client

_TOPIC = "egmf-rows"
_TASKS_A_WORKER = 2  # one runs, one waits, so that a worker is never idle between shards
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")  # the second one is Windows' own, for Linux in it
_CPU_THREADS = 1  # that reads ahead; the encoder needs the core too
_MOST_THREADS = 16
_ANSWER_SECONDS = 20  # a scheduler that has not answered by then is not there
_CONFIG = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.worker-ttl": None,  # a long call into a codec is no reason for a kill
    "distributed.comm.timeouts.connect": "60s",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.limit": "1h",
    "distributed.nanny.environ": {"TOKENIZERS_PARALLELISM": "false"},
    # dask has freed memory handed back at once; every batch would then fault its pages in anew.
    "distributed.nanny.pre-spawn-environ": {
        "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    },
}

OnRows = Callable[[int], None]
OnShard = Callable[[ShardReport], None]


def find_device(wanted: str | None) -> tuple[str, int]:
    """Return the kind of device to encode on (`cpu` or `cuda`) and how many there are.

    Raises:
        ExtractError: `cuda` is wanted and there is none.
    """
    if wanted == "cpu" or (wanted is None and not any(map(os.path.exists, _GPU_DRIVERS))):
        return "cpu", 1
    import torch

    # A driver may count GPUs that this torch cannot use.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and wanted is not None:
        raise ExtractError(f"device {wanted!r}: this machine has no such device; use --device cpu")
    return ("cuda", count) if count else ("cpu", 1)


def find_workers(device: str | None, workers: int | None) -> tuple[str, int, int]:
    """Return the kind of device, how many workers there are, and threads that read ahead in each.

    Args:
        device: As for `find_device`.
        workers: None is one a GPU, else one a core.

    Raises:
        ExtractError: `cuda` is wanted and there is none.
    """
    kind, devices = find_device(device)
    cores = len(os.sched_getaffinity(0))
    count = workers or (cores if kind == "cpu" else devices)
    return kind, count, _threads_for(kind, cores, count)


def _threads_for(kind: str, cores: int, workers: int) -> int:
    if kind == "cpu":
        return _CPU_THREADS
    return min(_MOST_THREADS, max(_CPU_THREADS, cores // workers))


def find_there(client: Client, wanted: str | None) -> tuple[str, int]:
    """Return the device that every worker of a running cluster has, and threads that read ahead.

    What this machine has is no matter then. A worker sees the GPU that it was bound to as its
    first.

    Raises:
        ExtractError: a worker has no such device, or some have a GPU and others none.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    on_host = Counter(each["host"] for each in workers.values())
    try:
        found = client.run(_look_around, wanted)
    except ExtractError as error:
        raise ExtractError(f"a worker of this scheduler: {error}") from error
    threads = min(
        _threads_for(kind, cores, on_host[workers[address]["host"]])
        for address, (kind, cores) in found.items()
    )
    kinds = {kind for kind, _ in found.values()}
    if len(kinds) > 1:
        raise ExtractError(
            "some workers of this scheduler have a GPU and others none, and features differ by "
            "device; leave some out, or use --device cpu"
        )
    return "cuda:0" if kinds == {"cuda"} else "cpu", threads


def _look_around(wanted: str | None) -> tuple[str, int]:
    """Return a worker's kind of device and its machine's cores."""
    return find_device(wanted)[0], len(os.sched_getaffinity(0))


class Cluster:
    """Workers that start when they are first needed, and stop when the `with` block ends.

    Attributes:
        device: The kind of device to encode on; known once started.
        threads: Threads that read ahead in each worker; known once started.
    """

    def __init__(self, device: str | None, workers: int | None, scheduler: str | None) -> None:
        self._wanted_device, self._workers, self._scheduler = device, workers, scheduler
        self._stack = ExitStack()
        self._client: Client | None = None
        self.device, self.threads = "cpu", _CPU_THREADS

    def start(self, jobs: int) -> Client:
        """Return a client of the workers, which are started unless they run already.

        Args:
            jobs: No more workers than this are started.

        Raises:
            ExtractError: the workers do not start, or nothing answers at the scheduler's address.
        """
        if self._client is None:
            wanted = self._wanted_device
            if self._scheduler:
                self._client = self._stack.enter_context(_remote_client(self._scheduler))
                self.device, self.threads = find_there(self._client, wanted)
            else:
                self.device, workers, self.threads = find_workers(wanted, self._workers)
                self._client = self._stack.enter_context(_local_client(min(workers, jobs)))
        return self._client

    def dashboard(self) -> str | None:
        """Return the address of dask's dashboard; None before the start or without bokeh."""
        if self._client is None or (not self._scheduler and find_spec("bokeh") is None):
            return None
        return str(self._client.dashboard_link)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextmanager
def _local_client(workers: int) -> Iterator[Client]:
    """Start worker processes on this machine and yield a client of theirs.

    Raises:
        ExtractError: they do not start.
    """
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set(_CONFIG), ExitStack() as stack:
        try:
            with _interrupts_held():
                cluster = stack.enter_context(
                    LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        processes=True,
                        memory_limit=0,  # a worker that is paused for its memory would hang the run
                        dashboard_address="127.0.0.1:0",  # a free port, for this machine alone
                        silence_logs=logging.CRITICAL,
                    )
                )
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ExtractError(
                f"the {workers} worker processes could not be started: {error}; try --workers 1"
            ) from error
        yield stack.enter_context(Client(cluster))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold a Ctrl-C back until the block ends, and keep it from every process started meanwhile.

    A terminal sends it to workers too, which would each print a traceback; they are stopped by
    this process, which gets it as well. A blocked signal is inherited by threads and processes and
    stays pending, where an ignored one would be lost.

    Raises:
        KeyboardInterrupt: one came while the block ran.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    resource_tracker.ensure_running()  # it unblocks signals in the thread that starts it
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@contextmanager
def _remote_client(address: str) -> Iterator[Client]:
    """Yield a client of a running dask scheduler whose workers share this cache and data root.

    Raises:
        ExtractError: nothing answers there, or it has no workers.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=_ANSWER_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise ExtractError(f"no dask scheduler answers at {address}: {error}") from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise ExtractError(f"the dask scheduler at {address} has no workers; start some first")
        yield client


def run_jobs(
    client: Client, jobs: Sequence[Job], *, on_rows: OnRows, on_shard: OnShard
) -> list[str]:
    """Run every job and return one sentence for each shard that could not be written.

    Args:
        client: Of the cluster to run on.
        jobs: In the order in which they start.
        on_rows: Called with the number of utterances finished since the last call.
        on_shard: Called with the report of each finished shard.

    Raises:
        ExtractError: an error that every shard would meet, such as a full disk.
    """
    counter = _RowCounter(on_rows)
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    client.subscribe_topic(_TOPIC, counter.on_event)

    def done(report: ShardReport) -> None:
        counter.at((report.modality, report.number), report.utterances)
        on_shard(report)

    try:
        failed = _run(client, jobs, max(1, workers) * _TASKS_A_WORKER, done)
        again = [replace(job, isolated=True) for job, _ in failed]
        failed = _run(client, again, 1, done)
    finally:
        client.unsubscribe_topic(_TOPIC)
    return [f"{job.name()} could not be written: {cause}" for job, cause in failed]


def _run(client: Client, jobs: Sequence[Job], window: int, done: OnShard) -> list[tuple[Job, str]]:
    """Run jobs, `window` at a time; return those that failed, with the cause."""
    from distributed import as_completed

    failed: list[tuple[Job, str]] = []
    waiting = deque(jobs)
    running: dict[Any, Job] = {}
    completed = as_completed([])
    while waiting or running:
        while waiting and len(running) < window:
            job = waiting.popleft()
            future = client.submit(_task, job, pure=False)
            running[future] = job
            completed.add(future)
        future = next(completed)
        job = running.pop(future)
        error = future.exception()
        if error is None:
            done(future.result())
        elif isinstance(error, ExtractError):
            client.cancel(list(running))
            raise error
        else:
            failed.append((job, _cause(error, job)))
        future.release()
    return failed


def _cause(error: BaseException, job: Job) -> str:
    if type(error).__name__ == "KilledWorker":
        first, last = job.shard.rows[0].id, job.shard.rows[-1].id
        return (
            f"its worker process was killed twice while it held utterances {first} to {last} (out "
            "of memory, or a crash in an encoder); try --workers 1"
        )
    return f"{type(error).__name__}: {error}"


def _task(job: Job) -> ShardReport:
    """Run one job in a worker, on the worker's own device.

    A GPU that has failed stays so for its process, which ends: another one takes its place.
    """
    from distributed import get_worker

    worker = get_worker()
    if job.device == "cuda":
        import torch

        name = str(worker.name)
        device = int(name) % torch.cuda.device_count() if name.isdigit() else 0
        job = replace(job, device=f"cuda:{device}")
    last = [0.0]

    def on_row(count: int) -> None:
        if (now := time.monotonic()) - last[0] > 0.5:
            last[0] = now
            key = [job.identity.modality, job.shard.number, count]
            worker.loop.add_callback(worker.log_event, _TOPIC, key)

    try:
        return encode_shard(job, on_row)
    except RuntimeError as error:
        if type(error).__name__ != "AcceleratorError" or is_out_of_memory(error):
            raise
        print(f"{job.name()}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        os._exit(1)


class _RowCounter:
    """Turns "shard s has n rows done" into "m more rows", whatever is told twice.

    It is told so by dask's thread and by the one that waits for shards.
    """

    def __init__(self, on_rows: OnRows) -> None:
        self._on_rows = on_rows
        self._lock = threading.Lock()
        self._done: dict[tuple[str, int], int] = {}

    def on_event(self, event: tuple[float, list[Any]]) -> None:
        modality, number, count = event[1]
        self.at((modality, number), count)

    def at(self, shard: tuple[str, int], count: int) -> None:
        with self._lock:
            more = count - self._done.get(shard, 0)
            if more > 0:
                self._done[shard] = count
                self._on_rows(more)
