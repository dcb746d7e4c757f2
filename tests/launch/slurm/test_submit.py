"""What `submit`, `logs` and `cancel` do around SLURM. SLURM's own part is tested on a real one, in tests/cluster."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.slurm import scheduler
from launch.slurm.batches import Batch, Wait, dependencies
from launch.slurm.jobs import JobRecord, read_jobs, write_jobs
from launch.slurm.logs import follow_file
from launch.slurm.scheduler import JobRefused, QueuedJob
from pipeline.config.reader import load_config, read_run_config
from pipeline.config.sweep import members_of
from pipeline.ground.errors import UserError
from pipeline.running.provenance import collect_provenance
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.file import write_bytes
from pipeline.store.lock import exclusive
from pipeline.store.seal import seal_directory
from stages import STAGES
from tests.conftest import REPOSITORY

PROFILE = "slurm/profiles/cpu_test.yaml"


class Queue:
    """Takes what is submitted; a test says what becomes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: dict[str, QueuedJob] = {}
        self.after: dict[str, tuple[str, ...]] = {}
        self.cancelled: list[str] = []
        self.refuses: int | None = None
        self.asked = 0
        for name in ("submit", "check", "cancel", "look_up"):
            monkeypatch.setattr(scheduler, name, getattr(self, name))

    def submit(self, script: Path, after: Sequence[str], after_tasks: Sequence[str] = ()) -> str:
        if self.refuses == len(self.jobs):
            raise UserError("sbatch: error: Job violates accounting/QOS policy")
        job = str(100 + len(self.jobs))
        self.jobs[job] = QueuedJob(job, "PENDING", reason="Dependency" if after else "Priority", limit="30:00")
        self.after[job] = (*after, *after_tasks)
        return job

    def check(self, script: Path) -> None:
        assert script.read_text().startswith("#!/bin/bash\n#SBATCH ")

    def cancel(self, jobs: Iterable[str]) -> None:
        jobs = [*jobs]
        assert jobs, "scancel refuses to end nothing"
        self.cancelled += jobs
        self.jobs.update({job: QueuedJob(job, "CANCELLED") for job in jobs})

    def look_up(self, jobs: Sequence[str]) -> dict[str, QueuedJob]:
        self.asked += 1
        return {job: self.jobs[job] for job in jobs if job in self.jobs}


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.chdir(REPOSITORY)
    return Queue(monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def submit(run: Path, *arguments: str) -> int:
    return main(["submit", "configs/demo.yaml", "--profile", PROFILE, "--run", str(run), *arguments])


def placed(run: Path) -> dict[str, PlacedStage]:
    return place_stages(read_run_config(run), run, STAGES)


def finish(run: Path, name: str) -> None:
    for part in placed(run)[name].parts:
        part.directory.mkdir(exist_ok=True)
        about = {"stage": name, "images": {}, "metrics": {}, "provenance": collect_provenance()}
        seal_directory(part.directory, "stage", about, [])


def job_ids(run: Path) -> dict[str, str]:
    """The ids of each stage's latest job."""
    return {job.stage: job.job for job in read_jobs(run)}


def submit_sweep(queue: Queue, run: Path, *arguments: str) -> dict[str, dict[str, str]]:
    """The ids of each member's jobs by stage. All of them are pending, the tasks of an array each by itself."""
    assert submit(run, *arguments) == 0
    ids = {member.name: job_ids(member) for member in members_of(run)}
    queue.jobs = {job: QueuedJob(job, "PENDING") for member in ids.values() for job in member.values()}
    return ids


def test_each_stage_waits_for_those_it_reads(queue, run, capsys):
    assert submit(run) == 0
    stages, ids = placed(run), job_ids(run)
    assert list(ids) == list(stages)
    assert list(ids.values()) == list(queue.jobs), "in the order of the stages"
    assert {name: queue.after[ids[name]] for name in ids} == {
        name: tuple(ids[read] for read in stage.inputs) for name, stage in stages.items()
    }
    assert queue.after[ids["train"]] == (ids["prepare"], ids["build"])
    shown = capsys.readouterr().out
    waits_for = f"prepare ({ids['prepare']}), build ({ids['build']})"
    assert re.search(
        rf"^train +{ids['train']} +submitted +2 +0 +30 min +{re.escape(waits_for)}$", shown, re.MULTILINE
    ), shown
    assert f"-m launch status {run}\n" in shown
    assert f"-m launch logs {run} train -f\n" in shown
    assert "global batch 64 = 4 processes x 16 images" in shown


def test_a_run_that_trains_nothing_is_submitted_without_a_stage_that_trains(queue, run, tmp_path, capsys):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    assert submit(run, f"evaluate.weights={weights}") == 0
    assert list(job_ids(run)) == list(placed(run))
    assert "train" not in job_ids(run)
    last = list(placed(run))[-1]
    assert f"-m launch logs {run} {last} -f\n" in capsys.readouterr().out


def test_the_run_keeps_the_world_size_of_the_profile_its_scripts_and_where_the_logs_are(queue, run):
    submit(run)
    assert read_run_config(run).resources.processes == 4
    (train,) = (job for job in read_jobs(run) if job.stage == "train")
    assert train.log == str(run / "jobs" / f"train-{train.key}-{train.job}.log")
    assert f"KEY={train.key}\n" in (run / "jobs" / f"train-{train.key}.sbatch").read_text()


def test_submitting_twice_queues_nothing_twice(queue, run, capsys):
    submit(run)
    capsys.readouterr()
    assert submit(run) == 0
    assert len(queue.jobs) == len(placed(run))
    assert "nothing new to submit" in capsys.readouterr().out


def test_only_what_is_neither_done_nor_queued_is_submitted_behind_what_is_queued(queue, run, capsys):
    submit(run)
    finish(run, "build")
    before, kept = job_ids(run), ["prepare", "train"]
    queue.jobs.update({job: QueuedJob(job, "CANCELLED") for name, job in before.items() if name not in kept})
    assert submit(run) == 0
    ids = job_ids(run)
    again = [name for name in ids if ids[name] != before[name]]
    assert again == [name for name in placed(run) if name not in ("build", *kept)]
    assert {name: queue.after[ids[name]] for name in again} == {
        name: tuple(ids[read] for read in placed(run)[name].inputs if read != "build") for name in again
    }
    assert submit(run, "--only", "train") == 0
    assert len(queue.jobs) == len(before) + len(again)


def test_settings_of_sbatch_in_the_environment_are_named_since_no_job_gets_them(queue, run, monkeypatch, capsys):
    monkeypatch.setenv("SBATCH_PARTITION", "debug")
    monkeypatch.setenv("SBATCH_ACCOUNT", "vision")
    submit(run)
    expected = "not used: SBATCH_ACCOUNT, SBATCH_PARTITION; account, partition and the like are the profile's"
    assert expected in capsys.readouterr().out.splitlines()


def test_a_submission_that_breaks_off_goes_on_where_it_broke_off(queue, run, capsys):
    queue.refuses = 3
    assert submit(run) == 2
    assert "QOS policy" in capsys.readouterr().err
    assert len(read_jobs(run)) == 3
    queue.refuses = None
    assert submit(run) == 0
    assert [job.stage for job in read_jobs(run)] == list(placed(run))


def test_one_stage_alone_may_wait_for_a_queued_one_but_not_for_none(queue, run, capsys):
    assert submit(run, "--only", "train") == 2
    message = capsys.readouterr().err
    assert "stage 'train' needs what prepare and build would make" in message
    assert f"-m launch submit configs/demo.yaml --profile {PROFILE} --run {run} --only prepare" in message
    assert submit(run, "--only", "prepare") == 0
    assert submit(run, "--only", "build") == 0
    assert submit(run, "--from", "train") == 0
    ids = job_ids(run)
    assert queue.after[ids["train"]] == (ids["prepare"], ids["build"])


def test_jobs_of_another_config_of_the_run_must_be_ended_first(queue, run, capsys):
    submit(run)
    assert submit(run, "lr=0.1", "--accept-changes") == 2
    message = capsys.readouterr().err
    train, freeze = (job_ids(run)[name] for name in ("train", "freeze_bn"))
    assert f"jobs of another config of this run are queued or running: {train} (train), {freeze} (freeze_bn)" in message
    assert main(["cancel", str(run)]) == 0
    assert submit(run, "lr=0.1", "--accept-changes") == 0


def test_accepted_changes_submit_jobs_with_the_keys_of_the_weights_that_are_there_now(queue, run, tmp_path, capsys):
    other = tmp_path / "train-0123456789"
    other.mkdir()

    def write_weights(content: bytes) -> None:
        write_bytes(other / "weights.safetensors", content)
        seal_directory(other, "stage", {}, ["weights.safetensors"])

    write_weights(b"first")
    assert submit(run, f"evaluate.weights={other}") == 0
    before = placed(run)["evaluate"].key
    write_weights(b"the second")
    assert submit(run, f"evaluate.weights={other}", "--accept-changes") == 0
    assert placed(run)["evaluate"].key == before, "a queued job lost the weights that it was submitted with"
    assert main(["cancel", str(run)]) == 0
    assert submit(run, f"evaluate.weights={other}", "--accept-changes") == 0
    assert placed(run)["evaluate"].key != before
    latest = {job.stage: job.key for job in read_jobs(run)}
    assert latest == {name: stage.key for name, stage in placed(run).items()}


def test_a_stage_that_another_process_works_on_is_not_submitted(queue, run, capsys):
    submit(run)
    main(["cancel", str(run)])
    build, count = placed(run)["build"].directory, len(queue.jobs)
    build.mkdir()
    with exclusive(build):
        assert submit(run) == 2
    assert f"{build}: another process works here (pid" in capsys.readouterr().err
    assert len(queue.jobs) == count


def test_a_dry_run_prints_the_jobs_the_batch_and_what_is_missing_and_touches_nothing(queue, run, capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    # An option's value would swallow the key behind it.
    assert submit(run, "data.dataset=folder", "--dry-run", "data.root=/nowhere") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^train +to submit +main +2 +0 +30 min +prepare, build$", shown, re.MULTILINE), shown
    assert "train: 2 nodes x 2 tasks: global batch 64 = 4 processes x 16 images" in shown
    assert "warning: on this machine `run` would refuse: data.root: must be" in shown
    assert "warning: sbatch is no command of this machine; submit on the cluster's login node" in shown
    assert "#!/bin/bash" not in shown
    assert not run.exists()
    assert queue.jobs == {}


def test_a_dry_run_of_one_stage_alone_is_refused_unless_what_it_reads_was_submitted(queue, run, capsys):
    assert submit(run, "--only", "train", "--dry-run") == 2
    assert "stage 'train' needs what prepare and build would make" in capsys.readouterr().err
    assert submit(run, "--only", "prepare") == submit(run, "--only", "build") == 0
    asked = queue.asked
    capsys.readouterr()
    assert submit(run, "--only", "train", "--dry-run") == 0
    shown = capsys.readouterr().out
    told = "submitted before: prepare, build; a dry run does not ask SLURM whether these jobs are still queued\n"
    assert told in shown
    assert queue.asked == asked
    assert main(["cancel", str(run)]) == 0
    assert submit(run, "--only", "train", "--dry-run") == 2


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("invalid partition specified: main", "2: partition: SLURM refuses the job of prepare (given main)"),
        ("Invalid qos specification", "1: qos: SLURM refuses the job of prepare (not given)"),
        ("Requested node configuration is not available", "6: stages.prepare: SLURM refuses the job of prepare"),
    ],
)
def test_a_job_that_slurm_refuses_is_answered_with_the_line_of_the_profile(
    queue, run, capsys, monkeypatch, words, answer
):
    def refuse(script: Path) -> None:
        raise JobRefused(f"sbatch: error: {words}")

    monkeypatch.setattr(scheduler, "check", refuse)
    assert submit(run) == 2
    assert capsys.readouterr().err == f"{PROFILE}:{answer}: sbatch: error: {words}\n"
    assert read_jobs(run) == []


def test_a_dry_run_prints_every_script_if_asked_to(queue, run, capsys):
    assert submit(run, "--dry-run=scripts") == 0
    shown = capsys.readouterr().out
    active = [stage for stage in STAGES if stage.is_active(load_config(REPOSITORY / "configs" / "demo.yaml"))]
    assert shown.count("#!/bin/bash\n") == len(active)
    assert (
        "train: sbatch --parsable --kill-on-invalid-dep=yes --dependency=afterok:<job of prepare>:<job of build>"
        in shown
    )
    assert not run.exists()
    assert queue.jobs == {}


def test_a_profile_that_does_not_fit_is_refused_before_anything_is_written(queue, run, capsys):
    assert submit(run, "global_batch=63") == 2
    assert "63 images cannot be shared equally by 4 processes" in capsys.readouterr().err
    assert not run.exists()


def test_cancel_ends_what_is_alive_last_stage_first_and_says_how_to_go_on(queue, run, capsys):
    submit(run)
    first, *others = queue.jobs
    queue.jobs[first] = QueuedJob(first, "COMPLETED")
    capsys.readouterr()
    assert main(["cancel", str(run)]) == 0
    assert queue.cancelled == others[::-1]
    shown = capsys.readouterr().out
    assert f"cancelled train ({job_ids(run)['train']}), which was pending" in shown
    assert f"-m launch submit {run}/config.yaml --profile {PROFILE} --run {run}" in shown
    assert main(["cancel", str(run)]) == 0
    assert "no job of this run is queued or running" in capsys.readouterr().out


def test_after_cancel_all_is_submitted_anew_once_the_old_jobs_are_gone(queue, run, capsys):
    submit(run)
    main(["cancel", str(run)])
    train, count = job_ids(run)["train"], len(queue.jobs)
    queue.jobs[train] = QueuedJob(train, "COMPLETING", "n1")
    assert submit(run) == 2
    assert f"cancelled jobs are still ending: {train} (train); try again in a moment" in capsys.readouterr().err
    queue.jobs[train] = QueuedJob(train, "CANCELLED")
    assert submit(run) == 0
    assert len(queue.jobs) == 2 * count


def test_a_sweep_is_a_job_array_a_stage_whose_tasks_wait_for_their_own_member_s_and_all_for_what_is_equal(queue, run):
    assert submit(run, "--seeds", "1,2,3") == 0
    arrays = dict(zip(placed(run / "seed3"), queue.jobs, strict=True))
    assert queue.after[arrays["train"]] == (arrays["prepare"], arrays["build"])
    records = {job.stage: job for job in read_jobs(run / "seed3")}
    tasks = {name: job if name == "prepare" else f"{job}_2" for name, job in arrays.items()}
    assert {name: job.job for name, job in records.items()} == tasks
    assert records["train"].waits_for == (arrays["prepare"], f"{arrays['build']}_2")
    assert records["train"].log == str(run / "jobs" / f"train-{arrays['train']}_2.log")
    assert read_run_config(run / "seed3").seed == 3
    script = (run / "jobs" / "train-0.sbatch").read_text()
    assert "#SBATCH --array=0,1,2\n" in script
    assert f"RUNS=([0]={run}/seed1 [1]={run}/seed2 [2]={run}/seed3)\n" in script
    assert len(list((run / "seed1" / "jobs").glob("prepare-*.sbatch"))) == 1


def test_tasks_that_wait_for_the_same_task_of_an_array_are_one_array(queue, run):
    assert submit(run, "sweep.optim.lr=[0.1,0.2]", "--seeds", "1,2") == 0
    records = {path.name: {job.stage: job for job in read_jobs(path)} for path in run.glob("lr*")}
    first, second = (records[f"lr0.1-seed{seed}"]["build"].job for seed in (1, 2))
    assert first.partition("_")[0] == second.partition("_")[0], "one array of two tasks"
    assert [records[f"lr0.2-seed{seed}"]["build"].job for seed in (1, 2)] == [first, second]
    for seed, build in ((1, first), (2, second)):
        array, _ = (records[f"lr{lr}-seed{seed}"]["train"].job.partition("_")[0] for lr in (0.1, 0.2))
        assert queue.after[array] == (records["lr0.1-seed1"]["prepare"].job, build)
        evaluate = records[f"lr0.2-seed{seed}"]["evaluate"]
        assert records[f"lr0.2-seed{seed}"]["freeze_bn"].job in evaluate.waits_for


def test_submitting_a_sweep_again_queues_what_is_missing_behind_what_is_queued(queue, run):
    before = submit_sweep(queue, run, "--seeds", "1,2")
    queue.jobs[before["seed1"]["report"]] = QueuedJob(before["seed1"]["report"], "CANCELLED")
    assert submit(run, "--seeds", "1,2,3") == 0
    assert job_ids(run / "seed2") == before["seed2"]
    assert job_ids(run / "seed3")["prepare"] == before["seed1"]["prepare"], "one key is one job"
    assert queue.asked == 2, "once for all members, at each submit"
    again = read_jobs(run / "seed1")[-1]
    assert (again.stage, "_" in again.job) == ("report", False), "one of its own"
    assert before["seed1"]["fuse"] in again.waits_for


def test_members_submitted_by_themselves_wait_for_what_is_queued_for_the_others_of_their_sweep(queue, run):
    shared = submit_sweep(queue, run, "--seeds", "1,2")["seed2"]["prepare"]
    assert submit(run, "--seeds", "3") == 0
    assert job_ids(run / "seed3")["prepare"] == shared
    assert main(["cancel", str(run / "seed1")]) == 0
    own = [str(run / "seed1" / "config.yaml"), "--profile", str(PROFILE), "--run", str(run / "seed1")]
    assert main(["submit", *own]) == 0
    assert job_ids(run / "seed1")["prepare"] == shared


def test_a_member_keeps_the_jobs_of_others_that_it_waits_for_though_it_needs_none_of_its_own(queue, run):
    submit(run, "--seeds", "1,2")
    count = len(queue.jobs)
    assert submit(run, "--seeds", "1,2,3", "--only", "prepare") == 0
    assert len(queue.jobs) == count
    assert job_ids(run / "seed3") == {"prepare": job_ids(run / "seed1")["prepare"]}


def test_one_stage_of_a_new_member_alone_waits_for_what_is_queued_for_others_under_the_same_key(queue, run):
    before = submit_sweep(queue, run, "sweep.evaluate.plans=[[center32],[center36]]")
    jobs = set(queue.jobs)
    assert submit(run, "sweep.evaluate.plans=[[center32],[center36],[center40]]", "--only", "evaluate") == 0
    (new,) = queue.jobs.keys() - jobs
    (known, _), added = before.values(), job_ids(run / "plans_center40")
    needed = placed(run / "plans_center40")["evaluate"].inputs
    assert added == {name: known[name] for name in added if name != "evaluate"} | {"evaluate": new}
    assert queue.after[new] == tuple(known[name] for name in needed)


def test_a_job_of_its_own_waits_for_its_task_of_an_array():
    builds, train = Batch("build", (0, 1), ()), Batch("train", (1,), (Wait(0),))
    assert dependencies(train, [builds, train], ["7"]) == (["7_1"], [])
    trains = Batch("train", (0, 1), (Wait(0),))
    assert dependencies(trains, [builds, trains], ["7"]) == ([], ["7"])


def test_cancelling_a_member_leaves_the_jobs_that_others_wait_for_too(queue, run, capsys):
    ids = submit_sweep(queue, run, "--seeds", "1,2")
    jobs, shared = set(queue.jobs), ids["seed2"]["prepare"]
    assert main(["cancel", str(run / "seed1")]) == 0
    assert set(queue.cancelled) == set(ids["seed1"].values()) - {shared}
    assert f"left prepare ({shared}), which other members of the sweep wait for\n" in capsys.readouterr().out
    assert main(["cancel", str(run)]) == 0
    assert set(queue.cancelled) == jobs
    assert "to go on: submit the same sweep again, or single runs of it" in capsys.readouterr().out


def test_cancelling_one_member_after_the_other_ends_the_jobs_that_they_share_too(queue, run):
    submit_sweep(queue, run, "--seeds", "1,2")
    jobs = set(queue.jobs)
    assert main(["cancel", str(run / "seed1")]) == 0
    assert main(["cancel", str(run / "seed2")]) == 0
    assert set(queue.cancelled) == jobs


def test_a_cancelled_member_without_live_jobs_of_its_own_ends_nothing(queue, run, capsys):
    shared = submit_sweep(queue, run, "--seeds", "1,2")["seed1"]["prepare"]
    queue.jobs.update({job: QueuedJob(job, "FAILED") for job in queue.jobs if job != shared})
    assert main(["cancel", str(run / "seed1")]) == 0
    assert queue.cancelled == []
    assert f"left prepare ({shared})" in capsys.readouterr().out
    assert main(["cancel", str(run / "seed2")]) == 0
    assert queue.cancelled == [shared]


def test_a_cancelled_member_that_is_submitted_again_waits_for_the_shared_job_that_it_left(queue, run):
    shared = submit_sweep(queue, run, "--seeds", "1,2")["seed1"]["prepare"]
    assert main(["cancel", str(run / "seed1")]) == 0
    assert submit(run, "--seeds", "1,2") == 0
    assert job_ids(run / "seed1")["prepare"] == shared


def test_members_are_cancelled_one_at_a_time_lest_each_leaves_a_job_to_the_other(queue, run, capsys):
    submit_sweep(queue, run, "--seeds", "1,2")
    with exclusive(run):
        assert main(["cancel", str(run / "seed1")]) == 2
    assert f"{run}: another process works here (pid" in capsys.readouterr().err
    assert queue.cancelled == []


def test_logs_prints_what_the_latest_job_of_a_stage_printed(queue, run, capfd):
    submit(run)
    assert main(["logs", str(run), "train"]) == 2
    (train,) = (job for job in read_jobs(run) if job.stage == "train")
    assert f"job {train.job} has not printed anything yet (pending)" in capfd.readouterr().err
    Path(train.log).write_text("step 1\n")
    assert main(["logs", str(run), "train"]) == 0
    assert capfd.readouterr().out == "step 1\n"
    assert main(["logs", str(run), "melt"]) == 2
    assert "this run has no stage 'melt' (its stages: prepare," in capfd.readouterr().err


def test_following_a_log_starts_before_it_exists_and_ends_with_its_job(tmp_path):
    log, out = tmp_path / "a.log", io.BytesIO()
    rounds: list[float] = []

    def sleep(seconds: float) -> None:
        rounds.append(seconds)
        with log.open("a") as file:
            file.write(f"{len(rounds)}\n")

    follow_file(log, out, lambda: len(rounds) < 31, sleep)
    assert out.getvalue().decode().splitlines() == [str(number) for number in range(1, len(rounds) + 1)]


def test_a_list_of_jobs_that_cannot_be_read_is_named(queue, run, capsys):
    submit(run)
    (run / "jobs.json").write_text("[{]")
    assert submit(run) == 2
    assert f"{run}/jobs.json: not a readable list of jobs" in capsys.readouterr().err


def test_the_list_of_jobs_is_read_as_it_was_written(tmp_path):
    record = JobRecord("train", "0123456789", "12", "p.yaml", 1.5, ("10", "11"), "/log")
    write_jobs(tmp_path, [record])
    assert read_jobs(tmp_path) == [record]
    assert json.loads((tmp_path / "jobs.json").read_text())[0]["waits_for"] == ["10", "11"]


def test_status_shows_what_is_queued_and_what_to_type_next(queue, run, capsys):
    submit(run)
    finish(run, "build")
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    ids = job_ids(run)
    assert re.search(rf"^prepare +queued +job {ids['prepare']}: Priority$", shown, re.MULTILINE)
    waiting = rf"job {ids['train']} waits for prepare \({ids['prepare']}\)"
    assert re.search(rf"^train +waiting +{waiting}$", shown, re.MULTILINE)
    main(["cancel", str(run)])
    capsys.readouterr()
    main(["status", str(run)])
    shown = capsys.readouterr().out
    assert re.search(f"^train +to run +job {ids['train']} was cancelled$", shown, re.MULTILINE)
    assert shown.rstrip().endswith(f"-m launch submit {run}/config.yaml --profile {PROFILE} --run {run}")


def test_status_works_where_slurm_does_not_answer(queue, run, capsys, monkeypatch):
    submit(run)

    def fail(jobs: Sequence[str]) -> dict[str, QueuedJob]:
        raise UserError("squeue: no such command")

    monkeypatch.setattr(scheduler, "look_up", fail)
    assert main(["status", str(run)]) == 0
    assert "what is queued is not known: squeue: no such command" in capsys.readouterr().out
