"""Training with a teacher: what it changes, what it leaves alone, how the run goes on, and what is refused."""

import csv
import signal

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from backbone import InputError
from backbone.inference import normalise
from tests.builders.runs import assert_equal, command, interrupted, log_of
from tools.io import model_file
from tools.predicting.models import load_model
from tools.run import checkpoint, detection, segmentation
from tools.run.config import DetConfig, SegConfig, parse_arguments
from tools.run.pretrained import settle
from tools.run.processes import to_device
from tools.run.teacher import Teacher

TERMS = {"seg": {"distill_loss"}, "det": {"distill_class_loss", "distill_box_loss"}}


def teach(finished, world, out, task):
    """A run's command with the finished run of its task as the teacher, which is copied beside it."""
    source, teacher = finished[task] / "best.safetensors", out.with_name("teacher.safetensors")
    if not teacher.exists():
        tensors = load_file(source)
        for name, value in tensors.items():
            if name.startswith("head.class_predictors.") and name.endswith(".bias"):
                value[::4] += 8  # so that this detector, of few steps, is confident of something
        model_file.save_tensors(teacher, tensors, model_file.load_description(source))
    main, arguments = command(task, world, out)
    return main, [*arguments, f"teacher={teacher}"]


def rows(folder):
    with (folder / "log.csv").open() as file:
        return {(int(row["step"]), row["name"]): float(row["value"]) for row in csv.DictReader(file)}


def change(source, target, edit):
    """Copies a weights file with another description."""
    header = model_file.load_description(source)
    edit(header)
    model_file.save_tensors(target, load_file(source), header)


@pytest.mark.parametrize("task", ["seg", "det"])
def test_a_run_learns_from_its_teacher_and_resumes_to_the_bit(finished, world, tmp_path, monkeypatch, task):
    short = ["run.steps=4", "run.eval_every=4"]
    main, arguments = teach(finished, world, tmp_path / "whole", task)
    assert main([*arguments, *short]) == 0
    log = rows(tmp_path / "whole")
    for step in (2, 4):
        assert all(log[step, name] > 0 for name in TERMS[task]) and 0 < log[step, "teacher_share"] < 1
        terms = [value for (at, name), value in log.items() if at == step and name.endswith("_loss")]
        assert log[step, "loss"] == pytest.approx(sum(terms), rel=1e-5)
    plain, taught = (checkpoint.load_state(folder / "last.pt") for folder in (finished[task], tmp_path / "whole"))
    assert plain["model"].keys() == taught["model"].keys() and plain["teacher_hash"] is None
    learning = [[group["params"] for group in state["optimizer"]["param_groups"]] for state in (plain, taught)]
    assert learning[0] == learning[1]
    assert not torch.equal(plain["model"]["backbone.stem.conv.weight"], taught["model"]["backbone.stem.conv.weight"])

    main, arguments = teach(finished, world, tmp_path / "parts", task)
    assert interrupted(main, [*arguments, *short], 3, monkeypatch) == 128 + signal.SIGTERM
    moved = (tmp_path / "teacher.safetensors").rename(tmp_path / "moved.safetensors")  # a file may move
    assert main([*arguments, *short, f"teacher={moved}", "--resume"]) == 0
    states = [checkpoint.load_state(tmp_path / name / "last.pt") for name in ("whole", "parts")]
    for state in states:
        del state["config"]
    assert_equal(*states)
    assert_equal(*(log_of(tmp_path / name) for name in ("whole", "parts")))


def test_a_run_goes_on_with_the_teacher_that_it_began_with(finished, world, tmp_path):
    main, arguments = teach(finished, world, tmp_path / "run", "seg")
    assert main([*arguments, "run.steps=1"]) == 0
    teacher = tmp_path / "teacher.safetensors"
    tensors = load_file(teacher)
    tensors["head.gate.weight"][0] += 1e-3
    save_file(tensors, teacher, model_file.write_header(model_file.load_description(teacher)))
    for own in ([], ["teacher=null"]):
        with pytest.raises(InputError, match=r"made with a teacher of SHA-256 \w{12}….*the file that it began with"):
            main([*arguments, "run.steps=2", *own, "--resume", "--extend"])
    main, arguments = command("seg", world, tmp_path / "plain")
    assert main([*arguments, "run.steps=1"]) == 0
    with pytest.raises(InputError, match="made with no teacher, now a teacher of SHA-256"):
        main([*arguments, f"teacher={teacher}", "run.steps=2", "--resume", "--extend"])


@pytest.mark.parametrize("task", ["seg", "det"])
def test_other_classes_are_refused_by_the_first_that_differs(finished, world, tmp_path, task):
    main, arguments = command(task, world, tmp_path / "run")
    source, teacher = finished[task] / "best.safetensors", tmp_path / "teacher.safetensors"
    names = model_file.load_description(source)["classes"]

    def swap(header):
        header["classes"][1], header["classes"][2] = names[2], names[1]

    change(source, teacher, swap)
    with pytest.raises(InputError, match=rf"teacher {teacher}: its class 1 is {names[2]}, the data's is {names[1]};"):
        main([*arguments, f"teacher={teacher}"])
    change(source, teacher, lambda header: header["classes"].append("tram"))
    with pytest.raises(InputError, match=rf"its class {len(names)} is tram, the data's is missing"):
        main([*arguments, f"teacher={teacher}"])
    other = finished["det" if task == "seg" else "seg"] / "best.safetensors"
    with pytest.raises(InputError, match=r"is a model for \w+, not for"):
        main([*arguments, f"teacher={other}"])
    with pytest.raises(InputError, match="no such weights file"):
        main([*arguments, f"teacher={tmp_path / 'none.safetensors'}"])
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_detector_of_other_anchors_is_refused(finished, world, tmp_path):
    main, arguments = command("det", world, tmp_path / "run")
    teacher = finished["det"] / "best.safetensors"
    with pytest.raises(InputError, match=rf"teacher {teacher}: its anchors are not the student's"):
        main([*arguments, f"teacher={teacher}", "model.head=pico96"])
    with pytest.raises(InputError, match=r"gives softmax scores, the student sigmoid scores; train it with"):
        main([*arguments, f"teacher={teacher}", "loss.kind=focal"])


def test_how_to_learn_from_a_teacher_needs_one(world, tmp_path):
    main, arguments = command("seg", world, tmp_path / "run")
    with pytest.raises(InputError, match="give teacher too"):
        main([*arguments, "distill.weight=2"])


def test_a_teacher_sees_its_own_normalisation_and_stays_as_it_was(finished, tmp_path):
    path = tmp_path / "teacher.safetensors"

    def normalise_otherwise(header):
        header["mean"], header["std"] = [0.4, 0.5, 0.6], [0.3, 0.2, 0.1]

    change(finished["seg"] / "best.safetensors", path, normalise_otherwise)
    model, description = load_model(path)
    pixels = torch.randint(256, (2, 3, 40, 56), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.eval()(normalise(pixels, description["mean"], description["std"]))
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    settings = {"task": "segmentation", "classes": description["classes"], "device": torch.device("cpu")}
    teacher = Teacher(str(path), mean=mean, std=std, **settings)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    answer = teacher(normalise(pixels, mean, std).requires_grad_())
    # Norms that have seen two steps have channels of tiny variance: noise makes logits of a thousand of them.
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert not answer.requires_grad and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert_equal(before, dict(teacher.state_dict()))
    same = Teacher(str(path), mean=description["mean"], std=description["std"], **settings)
    assert same.hash == teacher.hash and same.same_images and not teacher.same_images
    answer = same(normalise(pixels, description["mean"], description["std"]))
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def make_task(task, arguments):
    kind, make = {"seg": (SegConfig, segmentation.make_task), "det": (DetConfig, detection.make_task)}[task]
    torch.manual_seed(0)
    return make(settle(parse_arguments(kind, arguments, "train", None).config).config, Accelerator(cpu=True))


@pytest.mark.parametrize("task", ["seg", "det"])
def test_a_student_begins_as_without_its_teacher(finished, world, tmp_path, task):
    _, arguments = teach(finished, world, tmp_path / "run", task)
    taught, plain = (make_task(task, given).model.state_dict() for given in (arguments, arguments[:-1]))
    assert_equal(dict(taught), dict(plain))


@pytest.mark.parametrize("task", ["seg", "det"])
def test_the_step_is_one_graph_with_the_teacher_in_it(finished, world, tmp_path, task):
    _, arguments = teach(finished, world, tmp_path / "run", task)
    made = make_task(task, arguments)
    batch = to_device(made.collate([made.train_set[0, number] for number in range(2)]), torch.device("cpu"))
    made.model.eval()  # so that two calls see the same
    expected = made.loss(made.model, batch)
    assert made.teacher.seconds() > 0
    made.teacher.marks = None
    found = torch.compile(made.loss, fullgraph=True, dynamic=False, backend="eager")(made.model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert TERMS[task] < found.keys() and made.teacher.seconds() is None
    sum(found.values()).backward()
    assert all(parameter.grad is not None for parameter in made.model.parameters())


@pytest.mark.parametrize("own", [["run.accumulate=2"], ["run.precision=bf16"]])
def test_parts_of_a_batch_and_mixed_precision(finished, world, tmp_path, own):
    main, arguments = teach(finished, world, tmp_path / "run", "seg")
    assert main([*arguments, "run.steps=2", *own]) == 0
    assert rows(tmp_path / "run")[2, "distill_loss"] > 0


def test_a_dry_run_says_what_the_teacher_takes(finished, world, tmp_path, capsys):
    main, arguments = teach(finished, world, tmp_path / "run", "seg")
    assert main([*arguments, "--dry-run"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("teacher: "))
    assert line.endswith(" % of a step's time") and 0 < int(line.split()[1]) < 100


def test_two_processes_learn_from_a_teacher_each(finished, world, tmp_path, together):
    main, arguments = teach(finished, world, tmp_path / "run", "seg")
    said = together(2, lambda: main([*arguments, "run.steps=2"]))
    assert "2 processes" in said and rows(tmp_path / "run")[2, "distill_loss"] > 0
