"""Training and evaluation on a simulated GPU: no tensor is on the wrong device, and the results are
those of the CPU."""

import pytest
import torch
from accelerate import Accelerator

import training_loop
from evaluation.protocols import target_ranks
from run_folder import newest_run, read_results
from tests.conftest import VARIANTS, fresh_model, tiny_settings
from tests.pretend import CUDA, pretended
from training_loop import Run, fit
from training_run import train


class Elsewhere(Accelerator):
    """Of a process whose device is the pretended one."""

    device = CUDA


def on_the_device(work):
    """What `work` gives where the device is the pretended one."""
    with pytest.MonkeyPatch.context() as patch, pretended() as marks:
        patch.setattr(training_loop, "choose_device", lambda wanted: CUDA)
        patch.setattr(
            training_loop, "accelerator", lambda device: Elsewhere(cpu=True)
        )
        for name in ("get_rng_state", "set_rng_state"):
            patch.setattr(torch.cuda, name, getattr(torch, name))
        return work(marks)


def test_two_devices_do_not_mix():
    with pretended() as marks:
        there, here = torch.ones(3, 3).to("cuda"), torch.ones(3, 3)
        assert there.device == CUDA and here.device.type == "cpu"
        assert (there @ there).device == CUDA
        for wrong in (torch.add, torch.matmul, torch.dot):
            with pytest.raises(RuntimeError):
                wrong(there, here)
        with pytest.raises(TypeError):
            there.numpy()
        assert not marks.waits
        assert there.sum().item() == 9 and marks.waits.total() == 1
        there[there > 0]
        assert marks.waits.total() == 2
        assert there.cpu().device.type == "cpu" and marks.waits.total() == 3


def trained(data, settings, device):
    """(validation metric, test ranks, weights) of a short run on a device."""
    model = fresh_model(data, settings.model)
    progress = fit(model, data, settings, quiet=True)
    assert next(model.parameters()).device == device
    length = settings.model.seq_length
    ranks = target_ranks(
        model.frozen(), data, "test", length, settings.eval, device
    )
    return progress.best["NDCG@10"], ranks, list(model.parameters())


def test_a_run_is_that_of_the_processor(data, variant, tmp_path):
    settings = tiny_settings(tmp_path, variant, max_epochs=1)
    there = on_the_device(lambda marks: trained(data, settings, CUDA))
    here = trained(data, settings, torch.device("cpu"))
    assert there[0] == pytest.approx(here[0])
    assert (there[1] == here[1]).mean() > 0.99
    for one, other in zip(there[2], here[2], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("name", "most"),
    [("enhanced", 5), ("enhanced-transitions", 8), ("vanilla", 3)],
)
def test_a_step_seldom_waits(data, tmp_path, name, most):
    """For the positions of targets, and whether there are any; not for losses."""
    settings = tiny_settings(tmp_path, VARIANTS[name])

    def waits(marks):
        run = Run(fresh_model(data, settings.model), data, settings)
        run.wrapped.train()
        counts = []
        for batch in run.batches.epoch(0, 0):
            before = marks.waits.total()
            run.train_step(batch)
            counts.append(marks.waits.total() - before)
        return counts

    counts = on_the_device(waits)
    assert len(counts) > 1 and max(counts) <= most


@pytest.mark.slow
def test_a_whole_run(data, tmp_path):
    """With what is measured at its end, and one with a teacher."""
    where = {
        "checkpoint_dir": str(tmp_path),
        "runs_dir": str(tmp_path / "runs"),
    }
    model = VARIANTS["enhanced-transitions"]
    settings = tiny_settings(tmp_path, model, **where)

    def work(marks):
        train(settings, data=data)
        pupil = settings.replace(teacher=str(tmp_path / "best"), seed=3)
        train(pupil, data=data)

    on_the_device(work)
    run = newest_run(tmp_path)
    assert read_results(run / "best")["ranking"]["enhanced"]
